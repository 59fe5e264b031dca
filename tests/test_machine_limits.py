"""The machine's limits are those of what was done, in bytes and operations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from audiolm.evaluation import machine_limits
from audiolm.evaluation.machine_limits import (
    measure_bandwidth_bytes_per_second,
    measure_matmul_flops_per_second,
)

CPU = torch.device("cpu")


@pytest.fixture
def ticking_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A clock that goes on by one second each time it is read."""
    readings: list[Any] = []

    def read(device: torch.device) -> float:
        assert device == CPU
        readings.append(None)
        return float(len(readings))

    monkeypatch.setattr(machine_limits, "read_clock", read)
    return lambda: len(readings)


def test_bandwidth_counts_the_bytes_that_are_read(ticking_clock: Callable[[], int]) -> None:
    num_bytes = 4 * 4096 * 8
    assert measure_bandwidth_bytes_per_second(CPU, num_bytes, num_trials=3) == num_bytes
    assert ticking_clock() == 2 * 2 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_count_two_operations_each(
    dtype: torch.dtype, ticking_clock: Callable[[], int]
) -> None:
    assert measure_matmul_flops_per_second(CPU, dtype, num_trials=2) == 2 * 256**3


def test_products_grow_until_they_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is always over at once is timed at the largest size."""
    monkeypatch.setattr(machine_limits, "LARGEST_PRODUCT", 1024)
    monkeypatch.setattr(machine_limits, "MIN_PRODUCT_SECONDS", 1e9)
    sizes: list[int] = []
    true_product = machine_limits._product_of

    def remember(matrix: torch.Tensor) -> Callable[[], torch.Tensor]:
        sizes.append(len(matrix))
        return true_product(matrix)

    monkeypatch.setattr(machine_limits, "_product_of", remember)
    assert measure_matmul_flops_per_second(CPU, num_trials=1) > 0
    assert sizes == [256, 512, 1024]
