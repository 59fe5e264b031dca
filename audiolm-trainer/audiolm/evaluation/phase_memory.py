"""Peak memory of each phase of an answer, with the counter reset at the phase's start.

In: a device, and marks at the ends of phases. Out: `MemoryUse` by phase. The resets take time of
their own, so this is never done while a clock runs.
"""

import torch

from audiolm.evaluation.memory import MemoryUse, PeakMeter


class PhaseMemory:
    """An observer of a `Workload`; a phase's use is in `uses` once it has ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meter = PeakMeter(device)
        self.uses: dict[str, MemoryUse] = {}

    def end_phase(self, name: str) -> None:
        """Note the phase's memory; one that ends twice keeps its higher peak."""
        use = self._meter.read()
        earlier = self.uses.get(name)
        if earlier is None or _peak(use) > _peak(earlier):
            self.uses[name] = use
        self._meter = PeakMeter(self._device)

    def end_token(self) -> None:
        """Tokens are within a phase."""


def count_added_bytes(use: MemoryUse) -> int | None:
    """What a phase needed at its peak on top of what was there when it began; None: unknown.

    On a GPU bytes of tensors, elsewhere of the process.
    """
    if use.gpu_before_bytes is not None and use.gpu_peak_allocated_bytes is not None:
        return use.gpu_peak_allocated_bytes - use.gpu_before_bytes
    if use.process_peak_bytes is None or use.process_before_bytes is None:
        return None
    return max(0, use.process_peak_bytes - use.process_before_bytes)


def _peak(use: MemoryUse) -> int:
    return use.gpu_peak_allocated_bytes or use.process_peak_bytes or 0
