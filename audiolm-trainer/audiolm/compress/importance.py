"""How much each layer of the LLM or of Whisper does, measured on calibration clips.

Block influence is 1 - cosine of a layer's input and output hidden states, a mean over positions
(Men et al. 2024, "ShortGPT", section 2.3); the other measure is the loss of the clips' answers
without the layer.

Letters: S positions, C width.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from audiolm.compress.calibration import CalibrationClip
from audiolm.errors import UserError
from audiolm.models.adapter import base_llm
from audiolm.models.answer_loss import compute_answer_loss
from audiolm.models.salmonn import SALMONN


@dataclass(frozen=True)
class LayerImportance:
    """One layer: its number, block influence (0: it changes nothing; at most 2), and the loss
    without it, in nats per answer token."""

    index: int
    influence: float
    loss_without: float


def find_layers(model: SALMONN, part: str) -> nn.ModuleList:
    """The layers of `llm` or `whisper`.

    Raises:
        UserError: an LLM that keeps its layers elsewhere than transformers' decoders do.
    """
    owner = model.speech_encoder if part == "whisper" else base_llm(model.llm).get_decoder()
    layers = getattr(owner, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"model.llama_path: {type(owner).__name__} has no list of layers to prune")
    return layers


def measure_importance(
    model: SALMONN, part: str, clips: Sequence[CalibrationClip]
) -> tuple[float, list[LayerImportance]]:
    """The loss of the whole model, and every layer's importance."""
    layers = find_layers(model, part)
    compute_loss = build_loss(model, part, clips)
    with record_influence(layers) as influences:
        loss = compute_loss()
    found = []
    for index, layer in enumerate(layers):
        with skipped([layer]):
            loss_without = compute_loss()
        values = influences[index]
        found.append(LayerImportance(index, sum(values) / len(values), loss_without))
    return loss, found


def build_loss(model: SALMONN, part: str, clips: Sequence[CalibrationClip]) -> Callable[[], float]:
    """The mean loss of the clips' answer tokens, in nats, as a function to call again and again.

    Audio is encoded once where only the LLM changes between calls.
    """

    @torch.no_grad()
    def compute_loss() -> float:
        rows = prepared or (clip.prepare(model) for clip in clips)
        results = [compute_answer_loss(model.llm, row) for row in rows]
        return sum(float(r.row_losses.sum()) for r in results) / sum(r.total for r in results)

    with torch.no_grad():
        prepared = [clip.prepare(model) for clip in clips] if part == "llm" else []
    return compute_loss


@contextlib.contextmanager
def record_influence(layers: nn.ModuleList) -> Iterator[list[list[float]]]:
    """Gives a list per layer, to which each run of that layer adds its block influence."""
    influences: list[list[float]] = [[] for _ in layers]

    def build_hook(values: list[float]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before, after = _hidden_in(args, kwargs), _hidden_out(output)  # (1, S, C)
            cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            values.append(float(1 - cosine.mean()))

        return hook

    with _hooked(layers, [build_hook(values) for values in influences]):
        yield influences


@contextlib.contextmanager
def skipped(layers: Iterable[nn.Module]) -> Iterator[None]:
    """These layers give back what they are given, as if they were not there."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = _hidden_in(args, kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    chosen = list(layers)
    with _hooked(chosen, [hook] * len(chosen)):
        yield


@contextlib.contextmanager
def _hooked(layers: Iterable[nn.Module], hooks: Iterable[Callable[..., Any]]) -> Iterator[None]:
    handles = [
        layer.register_forward_hook(hook, with_kwargs=True)
        for layer, hook in zip(layers, hooks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hidden_in(args: Any, kwargs: Any) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _hidden_out(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
