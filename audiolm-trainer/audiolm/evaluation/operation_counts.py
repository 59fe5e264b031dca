"""Count what an answer does, as it does it: multiplications and the weights that it reads.

In: a model, and marks at the ends of phases. Out: floating-point operations and bytes of weights by
phase, from the shapes of the tensors that each operation really gets. Quantised weights count with
their packed bytes. Of an embedding table the rows that were looked up count. What is no matrix
product, convolution or attention (norms, activations, spectrograms) is not counted as operations.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from audiolm.evaluation.memory import iterate_unique_tensors

LOOK_UPS = ("aten::embedding", "aten::index_select", "aten::index.Tensor")


@dataclass
class PhaseCount:
    """What a phase did.

    Attributes:
        flops: multiplications and additions, a product and a sum being two.
        weight_bytes: of weights, each once per phase; in `decode` once per token.
    """

    flops: int = 0
    weight_bytes: int = 0


class OperationCounter(TorchDispatchMode):
    """An observer of a `Workload`, to be entered like a context; the counts are in `phases`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.phases: dict[str, PhaseCount] = defaultdict(PhaseCount)
        self._storage_bytes: dict[int, int] = {}
        for _, tensor in iterate_unique_tensors(model):
            pointer = _find_storage(tensor)
            self._storage_bytes[pointer] = tensor.untyped_storage().nbytes()
        self._read: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        self._open = PhaseCount()

    def end_phase(self, name: str) -> None:
        """What was counted since the last mark belongs to `name`."""
        self.end_token()
        self.phases[name].flops += self._open.flops
        self.phases[name].weight_bytes += self._open.weight_bytes
        self._open = PhaseCount()

    def end_token(self) -> None:
        """Weights that are read from now on are read again."""
        for pointer, pieces in self._read.items():
            size = min(sum(pieces.values()), self._storage_bytes[pointer])
            self._open.weight_bytes += size
        self._read.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self._open.flops += count_flops(func, args, kwargs, output)
        if not _is_view(func):
            self._note_weights(func, args, kwargs, output)
        return output

    def _note_weights(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        for tensor in _iterate_tensors((args, kwargs)):
            pointer = _find_storage(tensor)
            if pointer not in self._storage_bytes:
                continue
            size = tensor.nbytes
            if func.name() in LOOK_UPS:
                size = min(size, output.nbytes)
            self._read[pointer][(tensor.storage_offset(), size)] = size


def count_flops(func: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Operations of one call; 0 of what is not a product."""
    own = OWN_FORMULAS.get(func.name().partition(".")[0])
    if own is not None:
        return own(args, kwargs, output)
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=output))


def _count_attention(args: Any, kwargs: Any, output: Any) -> int:
    """(B, H, S, D) queries over (B, H, K, D) keys and values."""
    query, key, value = args[:3]
    num_rows = query.numel() // query.shape[-1]
    return 2 * num_rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _count_by_output(args: Any, kwargs: Any, output: Any) -> int:
    """x (..., K) times a matrix that may be packed -> (..., N): two operations per x and column."""
    product = output if isinstance(output, torch.Tensor) else output[0]
    return 2 * args[0].numel() * product.shape[-1]


OWN_FORMULAS: dict[str, Callable[[Any, Any, Any], int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _count_attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _count_attention,
    "aten::_scaled_dot_product_attention_math": _count_attention,
    "aten::_int_mm": _count_by_output,
    "bitsandbytes::gemm_4bit": _count_by_output,
    "bitsandbytes::gemv_4bit": _count_by_output,
    "bitsandbytes::int8_linear_matmul": _count_by_output,
    "bitsandbytes::int8_mixed_scaled_mm": _count_by_output,
    "bitsandbytes::int8_scaled_mm": _count_by_output,
}


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(
        value.alias_info is not None and not value.alias_info.is_write for value in returns
    )


def _find_storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _iterate_tensors(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _iterate_tensors(value)
    elif isinstance(values, dict):
        yield from _iterate_tensors(list(values.values()))
