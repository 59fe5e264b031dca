"""train.py on processes whose memory holds so many clips: MEMORY_CLIPS=5,3 (by rank)."""

import os

import train as train_script

from audiolm.errors import run_command
from audiolm.models.salmonn import SALMONN

limits = [int(text) for text in os.environ["MEMORY_CLIPS"].split(",")]
limit = limits[int(os.environ.get("RANK", "0"))]
real_forward = SALMONN.forward


def forward(model: SALMONN, samples: dict, **options: object) -> dict:
    if len(samples["text"]) > limit:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
    return real_forward(model, samples, **options)  # type: ignore[arg-type]


SALMONN.forward = forward  # type: ignore[method-assign]
run_command(train_script.main)
