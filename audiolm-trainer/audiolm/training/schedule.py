"""The learning rate as a function of the global optimiser step."""

import math

from audiolm.config import OptimsConfig


def compute_learning_rate(step: int, total_steps: int, optims: OptimsConfig) -> float:
    """Linear warm-up from `warmup_start_lr` to `init_lr`, then half a cosine to `min_lr`.

    `step` counts optimiser steps of the whole run from 0. With `schedule: reference` the cosine
    runs from step 0 of the run, as SALMONN's does, so the rate jumps where warm-up ends.
    """
    if step < optims.warmup_steps:
        rise = optims.init_lr - optims.warmup_start_lr
        return optims.warmup_start_lr + rise * step / optims.warmup_steps
    start = 0 if optims.schedule == "reference" else optims.warmup_steps
    progress = min((step - start) / max(total_steps - start, 1), 1.0)
    fall = optims.init_lr - optims.min_lr
    return optims.min_lr + fall * 0.5 * (1 + math.cos(math.pi * progress))
