"""AdamW over what trains, in SALMONN's two groups: with weight decay, and without."""

import torch
from torch import nn

from audiolm.config import OptimsConfig

NO_DECAY_MARKS = ("bias", "ln", "bn")  # parts of names, as in SALMONN


def build_optimiser(model: nn.Module, optims: OptimsConfig) -> torch.optim.AdamW:
    """Matrices decay; vectors, biases and normalisation layers do not."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim < 2 or any(mark in name for mark in NO_DECAY_MARKS)
            (plain if is_plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": optims.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optims.init_lr, betas=(0.9, optims.beta2))


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the same rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
