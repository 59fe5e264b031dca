"""The verbs of `python -m audiolm.compress`, one module each."""
