"""`lean_step.py`'s token, made into few kernels by `torch.compile`.

What is compiled has fixed shapes; so it attends to the whole room of the cache, which comes in
buckets of positions, and a mask hides what is not filled yet. The first bucket is compiled as it
is, the second with its size left open, which then serves all; one row and several rows are compiled
apart. Weights are inputs: another model of the same shapes reuses what is there.

Letters: B rows, K key heads, R positions of the room, S those so far, D head width.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.models.adapter import base_llm
from audiolm.models.kv_cache import build_cache, sees_every_position
from audiolm.models.lean_step import LLAMA_LIKE, Functions, LeanStep, Pair, compute

logger = logging.getLogger(__name__)
OPTION = "generate.torch_compile: true"


class CompiledStep:
    """Gives the logits of `LeanStep`, up to rounding; for one batch.

    Args:
        llm: one that `check_compilable` lets pass.
    """

    def __init__(self, llm: Any) -> None:
        self._lean = LeanStep(llm)
        self._is_beyond_limit = False  # of compilations, with these shapes

    def __call__(
        self, cache: Any, positions: torch.Tensor, mask: torch.Tensor | None, ids: torch.Tensor
    ) -> torch.Tensor:
        """Read a token per row, add it to the cache, and give its logits (B, 1, V).

        Takes what `LeanStep` does, and leaves it the shapes beyond torch's limit of compilations.

        Raises:
            UserError: torch cannot compile here.
        """
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if self._is_beyond_limit:
            return self._lean(cache, positions, mask, ids)
        num_filled = cache.get_seq_length()
        rooms = [layer.make_room(1) for layer in cache.layers]
        num_positions = rooms[0][0].shape[2]
        place = torch.full((1,), num_filled, device=ids.device)
        is_real = torch.zeros(len(ids), 1, 1, num_positions, dtype=torch.bool, device=ids.device)
        is_real[..., : num_filled + 1] = True if mask is None else mask
        turn = self._lean.find_turn(positions)
        try:
            logits = _compile()(self._lean.functions, ids, turn, rooms, place, is_real)
        except FailOnRecompileLimitHit:
            self._is_beyond_limit = True
            _warn_of_limit()
            return self._lean(cache, positions, mask, ids)
        except TorchDynamoException as error:
            raise UserError(
                f"{OPTION}: torch cannot compile the decoding step here ({_find_reason(error)}); "
                "set it to false"
            ) from error
        for layer in cache.layers:
            layer.count(1)
        return logits


def check_compilable(llm: Any, generate: GenerateConfig) -> None:
    """Whether `generate.torch_compile`, if set, can be had for this LLM, on this machine.

    Raises:
        UserError: it cannot, and what to set.
    """
    if not generate.torch_compile:
        return
    if generate.num_beams > 1:
        raise UserError(
            f"{OPTION} is for decoding without beams, and generate.num_beams is "
            f"{generate.num_beams}; set generate.num_beams: 1, or generate.torch_compile: false"
        )
    base = base_llm(llm)
    sees_all = sees_every_position(build_cache(base.config.get_text_config(), 1))
    if not (LeanStep.fits(llm) and sees_all) or getattr(base, "is_quantized", False):
        families = ", ".join(sorted(name.removesuffix("ForCausalLM") for name in LLAMA_LIKE))
        raise UserError(
            f"{OPTION} is for {families}, not quantised, without sliding windows, with "
            f"model.attn_implementation: sdpa; this LLM is {_describe(base)}; set it to false"
        )
    if llm.device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UserError(
                f"{OPTION} needs the package triton on a GPU; install it, or set it to false"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            f"{OPTION} needs a C++ compiler on a processor, and none was found; install g++ "
            "(or name yours in CXX), or set it to false"
        ) from error
    folder = Path(torch.__file__).parent
    if " " in str(folder):  # torch 2.13 hands it to the compiler without quotes
        raise UserError(
            f"{OPTION}: torch compiles nothing from a path with a space, {folder}; install it into "
            "an environment in another folder, or set it to false"
        )


def _find_reason(error: Exception) -> str:
    """The message's first line, and the first that a compiler wrote."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[:1]
    if "Output:" in lines:
        told += lines[lines.index("Output:") + 1 :][:1]
    return ": ".join(told) or type(error).__name__


def _describe(llm: Any) -> str:
    attention = llm.config._attn_implementation
    quantised = ", quantised" if getattr(llm, "is_quantized", False) else ""
    return f"{type(llm).__name__} with {attention}{quantised}"


def _step_in_rooms(
    functions: Functions,
    ids: torch.Tensor,
    turn: Pair,
    rooms: list[Pair],
    place: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Ids (B, 1) -> logits (B, 1, V); keys and values go into the rooms (B, K, R, D) at `place`."""

    def store(index: int, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        all_keys, all_values = rooms[index]
        all_keys.index_copy_(2, place, keys)
        all_values.index_copy_(2, place, values)
        return all_keys, all_values

    return compute(functions, ids, turn, store, mask)


@functools.cache
def _compile() -> Callable[..., torch.Tensor]:
    return torch.compile(_step_in_rooms, fullgraph=True)


@functools.cache
def _warn_of_limit() -> None:
    logger.warning(
        "generate.torch_compile: torch's limit of compilations is reached; batches of further "
        "shapes are decoded without"
    )
