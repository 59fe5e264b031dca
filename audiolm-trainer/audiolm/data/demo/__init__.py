"""The demo corpus: synthetic speech and sound scenes, made from a seed without any download."""
