"""Number types of a training run: of frozen weights, of matrix products, and the loss scaler.

What trains is float32 always. bfloat16 products need no scaler; float16 gradients are scaled up
before the backward pass, so that small ones are not lost, and down before they are clipped.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from audiolm.config import RunConfig
from audiolm.models.device import half_dtype

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """`product_dtype` is float32 when nothing is cast; the scaler does nothing without float16."""

    frozen_dtype: torch.dtype
    product_dtype: torch.dtype
    device_type: str
    scaler: torch.amp.GradScaler

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass goes inside."""
        is_mixed = self.product_dtype != torch.float32
        return torch.autocast(self.device_type, self.product_dtype, enabled=is_mixed)


def choose_precision(run: RunConfig, device: torch.device) -> Precision:
    """`run.precision` for this device.

    `auto` is bfloat16 where the GPU has it, float16 on older GPUs, float32 on CPUs. SALMONN's
    `run.amp: false` keeps frozen weights as they are under `auto` and casts nothing.
    """
    if run.precision == "auto":
        frozen = half_dtype(device)
        product = frozen if run.amp else torch.float32
    else:
        frozen = product = DTYPES[run.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=product == torch.float16)
    # It makes its state when it first scales something, which a process without clips does not.
    scaler.scale(torch.zeros((), device=device))
    return Precision(frozen, product, device.type, scaler)
