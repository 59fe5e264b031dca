"""How near each phase comes to what the machine can do (roofline, Williams et al. 2009).

In: counted operations and bytes, measured times, and the machine's own rates. Out: per phase the
least time that its operations or its bytes need, and that time's share of the measured one.

Bytes are those that have to be read at least: each weight once per pass (per token when decoding)
and the keys and values that attention looks at. Activations are not in them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from audiolm.evaluation.machine_limits import (
    measure_bandwidth_bytes_per_second,
    measure_matmul_flops_per_second,
)
from audiolm.evaluation.operation_counts import OperationCounter
from audiolm.evaluation.workload import Workload

ROOFLINE_PHASES = ("whisper", "beats", "qformer", "prefill", "decode")


@dataclass(frozen=True)
class MachineLimits:
    """What this machine reached when it was measured, and with which number type."""

    bandwidth_bytes_per_second: float
    matmul_flops_per_second: float
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RooflineRow:
    """One phase against the limit.

    Attributes:
        seconds: measured, the median.
        flops: multiplications and additions.
        num_bytes: weights and cache that have to be read.
        limit_seconds: the larger of the two least times.
        bound: `memory` or `compute`, whichever that is.
        share: `limit_seconds / seconds`; 1 is the limit itself.
    """

    phase: str
    seconds: float
    flops: int
    num_bytes: int
    limit_seconds: float
    bound: str
    share: float


def measure_limits(device: torch.device, dtype: torch.dtype) -> MachineLimits:
    """Take the machine's rates: some seconds. `dtype` is what the products are computed in."""
    return MachineLimits(
        measure_bandwidth_bytes_per_second(device),
        measure_matmul_flops_per_second(device, dtype),
        str(dtype).removeprefix("torch."),
    )


def count_operations(workload: Workload) -> dict[str, dict[str, int]]:
    """Operations and bytes of one answer by phase; `decode` with the cache that its steps read."""
    counter = OperationCounter(workload.model)
    with torch.compiler.set_stance("force_eager"), counter:  # it cannot look into what is compiled
        workload.observe(counter)
    assert workload.outcome is not None
    outcome = workload.outcome
    counts = {
        name: {"flops": count.flops, "weight_bytes": count.weight_bytes, "cache_bytes": 0}
        for name, count in counter.phases.items()
    }
    first, last = outcome.num_prompt_positions, outcome.num_cache_positions
    per_position = outcome.cache_bytes // last
    num_read = sum(range(first + 1, last + 1))  # each step reads what is there, and its own
    counts["decode"]["cache_bytes"] = per_position * num_read
    return counts


def compute_roofline(
    counts: Mapping[str, Mapping[str, int]],
    median_seconds: Mapping[str, float],
    limits: MachineLimits,
) -> list[RooflineRow]:
    """Compare the phases that do enough to be limited by the machine."""
    rows = []
    for phase in ROOFLINE_PHASES:
        if phase not in counts or phase not in median_seconds:
            continue
        count = counts[phase]
        num_bytes = count["weight_bytes"] + count["cache_bytes"]
        by_memory = num_bytes / limits.bandwidth_bytes_per_second
        by_compute = count["flops"] / limits.matmul_flops_per_second
        limit, seconds = max(by_memory, by_compute), median_seconds[phase]
        bound = "memory" if by_memory >= by_compute else "compute"
        rows.append(
            RooflineRow(phase, seconds, count["flops"], num_bytes, limit, bound, limit / seconds)
        )
    return rows
