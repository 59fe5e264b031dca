"""What all tests share: no network, one torch thread, the recorded stack of `tests/golden.py`."""

import os

# Before transformers is imported: nothing is fetched, and forked tokenizers stay quiet.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from audiolm.models.salmonn import SALMONN
from tests.golden import Golden

torch.set_num_threads(1)  # the models are tiny, and pytest runs one process per core


@pytest.fixture(scope="session")
def dev() -> Golden:
    """The recordings of the main stack with plain LoRA: Whisper, BEATs, Q-Former, Llama."""
    return Golden("dev", "lora")


@pytest.fixture(scope="session")
def dev_model(dev: Golden) -> SALMONN:
    """The model of `dev` with its trained weights. Shared: tests must not change it."""
    return dev.build_model()
