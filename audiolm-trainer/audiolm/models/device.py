"""Devices: which one, which number type its frozen weights have, and moving batches to it."""

from typing import Any

import torch

from audiolm.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that is there.

    Raises:
        UserError: an unknown device, or a GPU that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"run.device: {name!r} is none of auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(
                f"run.device: {name} is not there ({count} GPUs found); use auto or cpu"
            )
    return device


def half_dtype(device: torch.device) -> torch.dtype:
    """Number type of frozen weights: half precision on GPUs, float32 on CPUs."""
    if device.type != "cuda":
        return torch.float32
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Number type of a model that only answers: what `run.precision` says, `auto` as `half_dtype`.

    Raises:
        UserError: the device has no fast products of that type.
    """
    if precision == "auto":
        return half_dtype(device)
    if precision == "fp16" and device.type != "cuda":
        raise UserError("run.precision: fp16 is for GPUs; on a processor use fp32 or auto")
    if precision == "bf16" and device.type == "cuda" and half_dtype(device) != torch.bfloat16:
        raise UserError("run.precision: bf16, which this GPU does not have; use fp16 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def move_to(samples: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on `device`; lists stay."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in samples.items()
    }
