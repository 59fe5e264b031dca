"""What the machine itself can do at most: how fast it reads memory and multiplies matrices.

In: a device and a number type. Out: bytes and floating-point operations per second, the best of
several trials, as limits are. They are what a share of the limit is a share of, so they are
measured in the same run and with the same number of threads as what they are compared with.
"""

from collections.abc import Callable

import torch

from audiolm.evaluation.timing import read_clock

READ_BYTES = 512 * 2**20  # larger than any cache; read once per trial
NUM_TRIALS = 7
MIN_PRODUCT_SECONDS = 0.02
SMALLEST_PRODUCT, LARGEST_PRODUCT = 256, 8192  # rows and columns


def measure_bandwidth_bytes_per_second(
    device: torch.device, num_bytes: int = READ_BYTES, num_trials: int = NUM_TRIALS
) -> float:
    """How fast the device's own memory is read: sums of a float32 array, and a matrix times a
    vector, which is what decoding one token does with its weights; the faster of the two."""
    width = 4096
    matrix = torch.ones(max(1, num_bytes // 4 // width), width, device=device)
    vector = torch.ones(width, device=device)
    trials = (matrix.sum, lambda: matrix @ vector)
    seconds = min(_time_best(trial, device, num_trials) for trial in trials)
    return matrix.nbytes / seconds


def measure_matmul_flops_per_second(
    device: torch.device, dtype: torch.dtype = torch.float32, num_trials: int = NUM_TRIALS
) -> float:
    """How fast square matrices are multiplied; a multiplication and an addition are two.

    The matrices grow until a product takes 20 ms, so that slow number types end in time too.
    """
    size, seconds = SMALLEST_PRODUCT, 0.0
    while True:
        matrix = torch.full((size, size), 1 / size, dtype=dtype, device=device)
        multiply = _product_of(matrix)
        seconds = _time_best(multiply, device, 1)
        if seconds >= MIN_PRODUCT_SECONDS or size >= LARGEST_PRODUCT:
            break
        size *= 2
    return 2 * size**3 / min(seconds, _time_best(multiply, device, num_trials))


def _product_of(matrix: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: matrix @ matrix


def _time_best(call: Callable[[], object], device: torch.device, num_trials: int) -> float:
    """Seconds of the fastest of `num_trials` calls, after one that does not count."""
    call()
    best = float("inf")
    for _ in range(num_trials):
        started = read_clock(device)
        call()
        best = min(best, read_clock(device) - started)
    return best
