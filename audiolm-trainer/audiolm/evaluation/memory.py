"""Count bytes: weights by part, the KV cache, and what a piece of work needs at its peak.

In: a model, a cache, a device. Out: bytes. What cannot be measured is None, never another number.
"""

import ctypes
import gc
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiolm.models.checkpoint import ADAPTER_MARKS, CONNECTOR

STATUS_PATH = Path("/proc/self/status")
CLEAR_REFS_PATH = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5): sets the peak resident size back to the current one
# The kernel adds up resident pages per thread and lags behind by up to 64 pages of each.
COUNTER_SLACK_BYTES = 4 * 2**20
PARTS: tuple[str, ...] = ("whisper", "beats", "qformer_and_projector", "llm", "adapters")


def measure_weights(model: nn.Module) -> dict[str, int]:
    """Bytes of parameters, buffers and quantiser constants in each of `PARTS`, and `total`.

    Every tensor has its real type and counts once, whoever shares it. A vector bank that adapters
    of all layers share is one tensor. `model` has SALMONN's attribute names.
    """
    sizes: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, tensor in iterate_unique_tensors(model):
        sizes[_find_part(name)] += tensor.nbytes
    return {**sizes, "total": sum(sizes.values())}


def measure_weights_by_type(model: nn.Module) -> dict[str, int]:
    """The same bytes by number type, largest first: `{"float16": ..., "float32": ...}`."""
    sizes: Counter[str] = Counter()
    for _, tensor in iterate_unique_tensors(model):
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return dict(sizes.most_common())


def _find_part(name: str) -> str:
    if name.startswith(CONNECTOR):
        return "qformer_and_projector"
    if name.startswith("speech_encoder."):
        return "whisper"
    if name.startswith("beats."):
        return "beats"
    assert name.startswith("llama_model."), name
    return "adapters" if any(mark in name for mark in ADAPTER_MARKS.values()) else "llm"


def iterate_unique_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers and quantiser constants with their names, each piece of memory once."""
    seen: set[tuple[Any, int, int]] = set()
    for name, tensor in _iterate_tensors(model):
        place = (tensor.device, tensor.data_ptr(), tensor.nbytes)
        if place not in seen:
            seen.add(place)
            yield name, tensor


def _iterate_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for child, parameter in module.named_parameters(recurse=False):
            yield prefix + child, parameter
            for constant in _iterate_quantiser_constants(parameter):
                yield prefix + child, constant
        for child, buffer in module.named_buffers(recurse=False):
            yield prefix + child, buffer
        # bitsandbytes' int8 layers move the row scales here at the first call.
        for constant in _iterate_quantiser_constants(getattr(module, "state", None)):
            yield prefix + "state", constant


def _iterate_quantiser_constants(owner: Any) -> Iterator[torch.Tensor]:
    """Tensors of bitsandbytes that are neither parameters nor buffers.

    4-bit: block maxima and code book in `quant_state`, whose own maxima may be quantised again
    (`state2`). 8-bit: `CB` (the weight) and `SCB` (row scales).
    """
    for name in ("CB", "SCB", "absmax", "code", "offset"):
        value = getattr(owner, name, None)
        if isinstance(value, torch.Tensor):
            yield value
    for name in ("quant_state", "state2"):
        nested = getattr(owner, name, None)
        if nested is not None:
            yield from _iterate_quantiser_constants(nested)


def measure_cache(cache: Any) -> int:
    """Bytes of the keys and values that a transformers cache holds."""
    tensors = [
        tensor
        for layer in cache.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if isinstance(tensor, torch.Tensor)
    ]
    return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class MemoryUse:
    """Memory around a piece of work; None: not measured.

    `process_*`: resident set of this process, libraries included (Linux). `gpu_*`: of the device,
    by torch's allocator: allocated to tensors, and reserved from the driver.
    """

    process_before_bytes: int | None
    process_peak_bytes: int | None
    process_after_bytes: int | None
    gpu_before_bytes: int | None
    gpu_peak_allocated_bytes: int | None
    gpu_peak_reserved_bytes: int | None

    def as_dict(self) -> dict[str, int | None]:
        """Field names -> bytes."""
        return asdict(self)


class PeakMeter:
    """Peak memory from its construction to `read`; what came before is not in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        _return_free_heap()
        self._gpu_before_bytes: int | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._gpu_before_bytes = torch.cuda.memory_allocated(device)
        self._is_peak_reset = _reset_process_peak()
        self._process_before_bytes = read_process_bytes("VmRSS")

    def read(self) -> MemoryUse:
        """Memory use so far."""
        is_gpu = self._device.type == "cuda"
        if is_gpu:
            torch.cuda.synchronize(self._device)
        return MemoryUse(
            process_before_bytes=self._process_before_bytes,
            process_peak_bytes=read_process_bytes("VmHWM") if self._is_peak_reset else None,
            process_after_bytes=read_process_bytes("VmRSS"),
            gpu_before_bytes=self._gpu_before_bytes,
            gpu_peak_allocated_bytes=(
                torch.cuda.max_memory_allocated(self._device) if is_gpu else None
            ),
            gpu_peak_reserved_bytes=(
                torch.cuda.max_memory_reserved(self._device) if is_gpu else None
            ),
        )


def read_process_bytes(field: str) -> int | None:
    """`VmRSS` (resident now) or `VmHWM` (resident at most) of this process; None off Linux."""
    if not STATUS_PATH.is_file():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS_PATH.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _reset_process_peak() -> bool:
    """Ask the kernel to forget the peak; False where that is not allowed or has no effect."""
    try:
        CLEAR_REFS_PATH.write_text(RESET_PEAK)
    except OSError:
        return False
    peak_bytes, current_bytes = read_process_bytes("VmHWM"), read_process_bytes("VmRSS")
    if peak_bytes is None or current_bytes is None:
        return False
    return peak_bytes <= current_bytes + COUNTER_SLACK_BYTES


def _return_free_heap() -> None:
    """Give memory that loading freed back to the system, where the C library can (glibc)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
