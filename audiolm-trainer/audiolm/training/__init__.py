"""Pieces of the training loop in train.py."""
