"""Products of a few rows with a big weight, as decoding has them, on every core of a processor.

Such a product reads the weight once and computes almost nothing. On processors that are not
Intel's, MKL (torch 2.13) leaves it to one core, which cannot read as fast as memory gives; a batch
of products it shares out. So the weight is taken as a batch of its parts, without moving anything.

Letters: B rows, C width of what comes in, D of what comes out, P parts.
"""

import functools
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

NUM_PARTS = 16  # a divisor of the usual widths, and enough for as many threads
CPUINFO_PATH = Path("/proc/cpuinfo")


def linear_of_few_rows(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """`torch.nn.functional.linear` with weight (D, C) and bias (D,), for rows (B, C): (B, D).

    Without gradients; the numbers are those of `linear` up to rounding.
    """
    if not _pays_in_parts(weight):
        return partial(linear, weight=weight, bias=bias)
    weight = weight.detach()
    num_even = len(weight) - len(weight) % NUM_PARTS  # a vocabulary may have a token more
    parts = weight[:num_even].view(NUM_PARTS, -1, weight.shape[1]).transpose(1, 2)  # (P, C, D / P)
    rest = weight[num_even:] if num_even < len(weight) else None
    return partial(_multiply, parts=parts, rest=rest, bias=bias)


def _multiply(
    rows: torch.Tensor,
    parts: torch.Tensor,
    rest: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    products = torch.bmm(rows.expand(NUM_PARTS, -1, -1), parts)  # (P, B, D / P)
    is_one = len(rows) == 1  # the order of the results without two calls
    result = products.view(1, -1) if is_one else products.transpose(0, 1).reshape(len(rows), -1)
    if rest is not None:
        result = torch.cat([result, linear(rows, rest)], 1)
    return result if bias is None else result + bias


def _pays_in_parts(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
        and len(weight) >= NUM_PARTS
        and torch.backends.mkl.is_available()
        and torch.get_num_threads() > 1
        and not is_intel()
    )


@functools.cache
def is_intel() -> bool:
    """Whether the processor calls itself Intel's."""
    if CPUINFO_PATH.is_file():
        return bool(re.search(r"^vendor_id\s*:\s*GenuineIntel", CPUINFO_PATH.read_text(), re.M))
    return "intel" in platform.processor().lower()
