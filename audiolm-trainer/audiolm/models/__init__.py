"""Encoders, Q-Former, LLM, and the SALMONN model that joins them."""

import logging

# Before peft imports it: bitsandbytes gives advice on import and at every int8 product.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
