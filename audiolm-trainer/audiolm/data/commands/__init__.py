"""The verbs of `python -m audiolm.data`: their options, and what they tell the user."""
