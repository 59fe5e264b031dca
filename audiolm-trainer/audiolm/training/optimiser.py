"""AdamW over what trains, in SALMONN's two groups: with weight decay, and without.

A connector with a rate of its own has two more groups.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from audiolm.config import OptimsConfig
from audiolm.errors import UserError
from audiolm.models.checkpoint import CONNECTOR

LR_SCALE = "lr_scale"  # key of a group: what the rate of the step is multiplied by for it
NO_DECAY_MARKS = ("bias", "ln", "bn")  # parts of names, as in SALMONN


def build_optimiser(model: nn.Module, optims: OptimsConfig) -> torch.optim.Optimizer:
    """Matrices decay; vectors, biases and normalisation layers do not.

    `adamw8bit` is bitsandbytes' AdamW, whose two moments take one byte each instead of four, in
    blocks with a scale of their own; tensors below 4,096 weights keep float32 moments. It runs on
    GPUs and CPUs, and its state is saved and loaded like AdamW's. Source: Dettmers et al. 2022,
    "8-bit Optimizers via Block-wise Quantization".

    Raises:
        UserError: bitsandbytes is missing.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(False, 1.0): [], (True, 1.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim < 2 or any(mark in name for mark in NO_DECAY_MARKS)
            lr_scale = optims.connector_lr_scale if name.startswith(CONNECTOR) else 1.0
            groups.setdefault((is_plain, lr_scale), []).append(parameter)
    listed = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_plain else optims.weight_decay,
            LR_SCALE: lr_scale,
        }
        for (is_plain, lr_scale), parameters in groups.items()
    ]
    return _find_class(optims.optimiser)(listed, lr=optims.init_lr, betas=(0.9, optims.beta2))


def _find_class(name: str) -> Any:
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise UserError(
            f"run.optims.optimiser: {name} needs bitsandbytes; pip install bitsandbytes, or use "
            "adamw"
        ) from error
    return AdamW8bit


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a total norm of `max_norm` (0: leave them); the norm before that."""
    return float(nn.utils.clip_grad_norm_(parameters, max_norm or float("inf")))


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the rate, times its own scale if it has one."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group.get(LR_SCALE, 1.0)
