"""Encoders, Q-Former, LLM, and the SALMONN model that joins them."""
