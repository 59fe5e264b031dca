"""Smaller models: adapters merged, everything in one folder, layers dropped."""
