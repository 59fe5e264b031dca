"""Window positions and learning rates against the reference's tables."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiolm.config import OptimsConfig
from audiolm.models.qformer import Windows
from audiolm.training.schedule import compute_learning_rate
from tests.golden import GOLDEN_DIR, load_json

LR_ATOL = 1e-12
TABLES = load_json(GOLDEN_DIR / "units" / "lr_tables.json")


def test_windows() -> None:
    rows = load_json(GOLDEN_DIR / "units" / "windows.json")["rows"]
    assert len(rows) == 110
    for row in rows:
        windows = Windows.from_seconds(row["second_per_window"], row["second_stride"])
        assert (windows.length, windows.step) == (row["kernel"], row["stride"]), row
        count = windows.count(row["T"])
        assert count == row["n_windows"], row
        frames = torch.arange(row["T"])[None, :, None]
        last = windows.cut(frames, torch.tensor([count]))[-1, :, 0].tolist()
        assert last[0] == row["last_window_first_frame"], row
        assert last[-1] == row["last_frame_used"], row


def reference_rates(table: str) -> tuple[list[float], list[float]]:
    """Our rates under `schedule: reference`, and the recorded ones."""
    kwargs = dict(TABLES[table]["kwargs"])
    iters_per_epoch = kwargs.pop("iters_per_epoch")
    kwargs.setdefault("warmup_start_lr", kwargs["init_lr"])  # what the reference falls back to
    optims = OptimsConfig(**kwargs, schedule="reference")
    total_steps = optims.max_epoch * iters_per_epoch
    rows = TABLES[table]["rows"]
    steps = [epoch * iters_per_epoch + step for epoch, step, _ in rows]
    rates = [compute_learning_rate(step, total_steps, optims) for step in steps]
    return rates, [rate for _, _, rate in rows]


@pytest.mark.parametrize("table", ["reference_config", "no_warmup_start_lr", "no_warmup"])
def test_reference_schedule(table: str) -> None:
    rates, expected = reference_rates(table)
    assert rates == pytest.approx(expected, abs=LR_ATOL, rel=0)


def test_warmup_longer_than_an_epoch_goes_on() -> None:
    """The reference's warm-up starts anew each epoch; ours counts the steps of the whole run."""
    rates, recorded = reference_rates("warmup_longer_than_epoch")
    optims = OptimsConfig(**_without_iters("warmup_longer_than_epoch"), schedule="reference")
    rise = (optims.init_lr - optims.warmup_start_lr) / optims.warmup_steps
    assert rates[:5] == pytest.approx(recorded[:5], abs=LR_ATOL)
    assert recorded[5] == optims.warmup_start_lr
    assert rates[5:8] == pytest.approx([optims.warmup_start_lr + rise * i for i in (5, 6, 7)])
    assert rates[8:] == pytest.approx(recorded[8:], abs=LR_ATOL)


def _without_iters(table: str) -> dict[str, Any]:
    return {k: v for k, v in TABLES[table]["kwargs"].items() if k != "iters_per_epoch"}


@given(
    warmup_steps=st.integers(0, 60),
    total_steps=st.integers(1, 300),
    start=st.floats(0, 1e-4),
    lowest=st.floats(0, 1e-4),
)
def test_own_schedule_rises_then_falls(
    warmup_steps: int, total_steps: int, start: float, lowest: float
) -> None:
    """Peaks at exactly `init_lr` where warm-up ends, without a jump, and never rises again."""
    optims = OptimsConfig(
        warmup_steps=warmup_steps, warmup_start_lr=start, init_lr=1e-3, min_lr=lowest
    )
    rates = [compute_learning_rate(step, total_steps, optims) for step in range(total_steps + 1)]
    rising, falling = rates[: warmup_steps + 1], rates[warmup_steps:]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a >= b for a, b in itertools.pairwise(falling))
    # No step is larger than the ramp's, or than the steepest of the cosine.
    ramp = (optims.init_lr - optims.warmup_start_lr) / max(warmup_steps, 1)
    slope = math.pi / 2 * (optims.init_lr - optims.min_lr) / max(total_steps - warmup_steps, 1)
    largest = max(abs(a - b) for a, b in itertools.pairwise(rates))
    assert largest <= max(ramp, slope) + LR_ATOL
    if warmup_steps < total_steps:
        assert rates[warmup_steps] == optims.init_lr
        assert rates[-1] == pytest.approx(optims.min_lr, abs=LR_ATOL)
