"""train.py on processes whose memory holds so many clips: MEMORY_CLIPS=5,3 (by rank); -1: as many
as there are, but their training loss is not a number."""

import math
import os
from collections.abc import Sequence

import train as train_script

from audiolm.models.salmonn import SALMONN


def main(arguments: Sequence[str]) -> int:
    """Arguments: those of train.py. The process must end with it: it changes the model's class."""
    limits = [int(text) for text in os.environ["MEMORY_CLIPS"].split(",")]
    limit = limits[int(os.environ.get("RANK", "0"))]
    real_forward = SALMONN.forward

    def forward(model: SALMONN, samples: dict, **options: object) -> dict:
        if 0 <= limit < len(samples["text"]) and model.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        output = real_forward(model, samples, **options)  # type: ignore[arg-type]
        is_spoilt = limit < 0 and model.training
        return {**output, "loss": output["loss"] * math.nan} if is_spoilt else output

    SALMONN.forward = forward  # type: ignore[method-assign]
    return train_script.main(arguments)
