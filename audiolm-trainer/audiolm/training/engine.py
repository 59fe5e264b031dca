"""The distributed engine: accelerate on torch.distributed, and what processes tell each other."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object

from audiolm.config import RunConfig
from audiolm.models.device import choose_device

# Gradients are exchanged in pieces of this many numbers (64 MiB), so that the copy stays small.
NUMBERS_PER_PIECE = 2**24
OWN_STORE_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"

logger = logging.getLogger(__name__)


def build_accelerator(run: RunConfig) -> Accelerator:
    """accelerate over torch.distributed: gloo on CPU, NCCL on GPU; one process without torchrun.

    Mixed precision is not accelerate's here but `training.precision`'s, since accelerate knows
    float16 on GPUs only.
    """
    device = choose_device(run.device)
    _warn_of_restarts()
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def _warn_of_restarts() -> None:
    """torchrun lends the workers its own store, in which restarted ones find the addresses of dead
    ones: they fail to meet, or wait for them until the time limit of torch.distributed."""
    variables = os.environ
    is_lent = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    may_restart = variables.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if is_lent and may_restart and variables.get("RANK") == "0":
        logger.warning(
            "torchrun --max_restarts without %s=1: restarted workers may wait for dead ones; "
            "export it before torchrun on every node",
            OWN_STORE_VARIABLE,
        )


def sum_everywhere(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """The sums of some numbers over all processes, in float64."""
    if accelerator.num_processes == 1:
        return [float(value) for value in values]
    sums = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    return accelerator.reduce(sums, reduction="sum").tolist()  # type: ignore[union-attr]


def find_largest_anywhere(accelerator: Accelerator, count: int) -> int:
    """The largest of the processes' counts."""
    counts = accelerator.gather(torch.tensor([count], device=accelerator.device))
    assert isinstance(counts, torch.Tensor)
    return int(counts.max())


def tell_everyone(value: Any) -> Any:
    """The main process's value, on every process."""
    return broadcast_object_list([value])[0]


def gather_everywhere(items: list[Any]) -> list[Any]:
    """Every process's items in one list, on every process, in the order of ranks."""
    return gather_object(items)


def share_weights(accelerator: Accelerator, parameters: Sequence[torch.Tensor]) -> None:
    """Give every process the main process's weights."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            broadcast(parameter.data)


def share_gradients(accelerator: Accelerator, parameters: Sequence[torch.Tensor]) -> None:
    """Sum each gradient over all processes, once per optimiser step.

    A parameter that no process used keeps no gradient, as in a single process; one that only some
    used counts as zero on the others. Processes may have done different numbers of backward passes.
    """
    if accelerator.num_processes == 1:
        return
    used = sum_everywhere(accelerator, [p.grad is not None for p in parameters])
    piece: list[torch.Tensor] = []
    for parameter, num_users in zip(parameters, used, strict=True):
        if num_users:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            piece.append(parameter.grad)
        if sum(gradient.numel() for gradient in piece) >= NUMBERS_PER_PIECE:
            _sum_piece(accelerator, piece)
            piece = []
    _sum_piece(accelerator, piece)


def _sum_piece(accelerator: Accelerator, gradients: Sequence[torch.Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="sum")
    assert isinstance(flat, torch.Tensor)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
