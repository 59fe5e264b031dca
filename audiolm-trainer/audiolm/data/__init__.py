"""From annotation files to batches of clips."""
