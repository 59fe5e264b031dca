"""The figures of `draw_figures.py`, a module each."""
