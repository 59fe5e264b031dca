"""Steps that go wrong: out of memory, and losses or gradients that are not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from audiolm.errors import UserError
from audiolm.training.engine import gather_everywhere


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the allocator of a GPU or of the host gave up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give cached blocks back to the GPU, so that smaller pieces find room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve(samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A batch as two of half its clips, still padded alike; a single clip as it is."""
    size = len(samples["id"])
    if size < 2:
        return [dict(samples)]
    return [cut_batch(samples, 0, size // 2), cut_batch(samples, size // 2, size)]


def cut_batch(samples: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Rows `start` to `stop` of a batch of `data.batches.collate`."""
    rows = {
        name: value if isinstance(value, str) else value[start:stop]
        for name, value in samples.items()
    }
    return {**rows, "skipped": [] if start else samples["skipped"]}


def list_ids(batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """The clips of some batches."""
    return [clip_id for samples in batches for clip_id in samples["id"]]


def find_culprits(
    accelerator: Accelerator,
    batches: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    scaler: torch.amp.GradScaler,
) -> tuple[str, list[str]]:
    """Why the summed gradients are not finite, and the clips of all processes that may be why.

    Without a reason it is only float16 gradients that overflowed: the scaler leaves such a step
    out by itself and scales less from then on.
    """
    bad = [
        samples
        for samples, output in zip(batches, outputs, strict=True)
        if not math.isfinite(output["loss"])
    ]
    culprits = gather_everywhere(list_ids(bad))
    if culprits:
        return "non-finite loss", culprits
    if scaler.is_enabled() and scaler.get_scale() > 1:
        return "", []
    return "non-finite gradient", gather_everywhere(list_ids(batches))


class SkippedSteps:
    """Steps in a row that changed nothing.

    Args:
        limit: more than this many stop the run (`run.max_skipped_steps`).
    """

    def __init__(self, limit: int, num_in_row: int = 0) -> None:
        self._limit = limit
        self.num_in_row = num_in_row

    def count(self, reason: str, ids: Sequence[str]) -> None:
        """One more skipped step; `reason` is empty for a step that was taken.

        Raises:
            UserError: too many in a row.
        """
        self.num_in_row = self.num_in_row + 1 if reason else 0
        if self.num_in_row > self._limit:
            cure = (
                "lower run.batch_size_train or raise run.accum_grad_iters; --plan shows what fits"
                if reason == "out of memory"
                else "lower run.optims.init_lr, set run.optims.max_grad_norm, or see to those clips"
            )
            raise UserError(
                f"{self.num_in_row} steps in a row were skipped ({reason}; run.max_skipped_steps "
                f"is {self._limit}), the last one with {', '.join(ids[:8])}: {cure}"
            )
