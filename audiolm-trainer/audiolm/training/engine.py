"""The distributed engine: accelerate on torch.distributed."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from audiolm.config import RunConfig
from audiolm.models.device import choose_device, half_dtype


def build_accelerator(run: RunConfig) -> Accelerator:
    """accelerate over torch.distributed: gloo on CPU, NCCL on GPU; one process without torchrun."""
    device = choose_device(run.device)
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(half_dtype(device), "no")
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision if run.amp else "no")


def count_everywhere(accelerator: Accelerator, count: int) -> int:
    """The sum of a count over all processes."""
    return int(accelerator.reduce(torch.tensor(count, device=accelerator.device)))  # type: ignore


def synchronise_only_last(
    accelerator: Accelerator, model: torch.nn.Module, is_last: bool
) -> AbstractContextManager[Any]:
    """Processes exchange gradients once per optimiser step, with the last micro-batch."""
    return nullcontext() if is_last else accelerator.no_sync(model)
