"""Whisper's lean pass gives transformers' numbers to the bit, and steps aside where it must."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.models import lean_whisper, whisper
from audiolm.models.whisper import collected_layers, encode_padded, encode_trimmed


def build_encoder(
    width: int = 32, num_heads: int = 2, inner_width: int = 128, attention: str = "sdpa"
) -> Any:
    """One of two layers whose weights, biases and norms are all random."""
    torch.manual_seed(width)
    config = WhisperConfig(
        d_model=width,
        encoder_attention_heads=num_heads,
        encoder_ffn_dim=inner_width,
        encoder_layers=2,
        num_mel_bins=20,
    )
    encoder = WhisperEncoder._from_config(config, attn_implementation=attention).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder.requires_grad_(False)


def count_lean_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that every lean pass adds its number of clips to."""
    passes: list[int] = []

    def run_layers(
        encoder: WhisperEncoder, hidden: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        passes.append(len(hidden))
        return lean_whisper.run_layers(encoder, hidden, mask)

    monkeypatch.setattr(whisper, "run_layers", run_layers)
    return passes


@pytest.mark.parametrize(
    ("width", "num_heads", "inner_width"), [(32, 2, 128), (48, 4, 100), (64, 1, 640)]
)
@pytest.mark.parametrize("num_clips", [1, 2, 3])
@torch.no_grad()
def test_padded_is_equal_to_the_bit(
    width: int, num_heads: int, inner_width: int, num_clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_lean_passes(monkeypatch)
    encoder = build_encoder(width, num_heads, inner_width)
    spectrogram = torch.randn(num_clips, 20, 3000)
    plain = encoder(spectrogram).last_hidden_state
    assert torch.equal(encode_padded(encoder, spectrogram), plain)
    assert passes == [num_clips]


@pytest.mark.parametrize("num_frames", [[50], [70, 70], [31, 80, 5]])
@torch.no_grad()
def test_trimmed_is_equal_to_the_bit(
    num_frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_lean_passes(monkeypatch)
    encoder = build_encoder()
    clips = torch.randn(len(num_frames), 20, 3000), torch.tensor(num_frames)
    lean = encode_trimmed(encoder, *clips)
    assert passes == [len(num_frames)]
    with collected_layers(encoder) as states:  # who listens gets the layers' own calls
        assert torch.equal(encode_trimmed(encoder, *clips), lean)
    assert passes == [len(num_frames)]
    assert len(states) == 3


@torch.no_grad()
def test_input_is_left_as_it_was() -> None:
    encoder = build_encoder()
    hidden = torch.randn(2, 30, 32)
    before = hidden.clone()
    lean_whisper.run_layers(encoder, hidden, None)
    assert torch.equal(hidden, before)


class Adapted(nn.Linear):
    """Stands for a quantised or an adapted layer: a Linear whose weights are not all there is."""


def adapt(encoder: Any) -> None:
    adapted = Adapted(32, 128)
    adapted.load_state_dict(encoder.layers[1].fc1.state_dict())
    encoder.layers[1].fc1 = adapted


def listen(encoder: Any) -> None:
    encoder.layers[1].self_attn.k_proj.register_forward_hook(lambda *_: None)


def wrap_forward(encoder: Any) -> None:
    encoder.layers[0].fc2.forward = encoder.layers[0].fc2.forward


REASONS: dict[str, Callable[[Any], object]] = {
    "training": lambda encoder: encoder.train(),
    "an adapted layer": adapt,
    "a hook": listen,
    "a wrapped forward": wrap_forward,
    "another precision": lambda encoder: encoder.to(torch.float64),
    "another activation": lambda encoder: setattr(
        encoder.config, "activation_function", "gelu_new"
    ),
}


@pytest.mark.parametrize("reason", REASONS)
@torch.no_grad()
def test_steps_aside(reason: str) -> None:
    encoder = build_encoder()
    assert lean_whisper.runs_lean(encoder)
    REASONS[reason](encoder)
    assert not lean_whisper.runs_lean(encoder)


@pytest.mark.parametrize(
    "context", [torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_steps_aside_within(
    context: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    encoder = build_encoder()
    with torch.no_grad():
        assert lean_whisper.runs_lean(encoder)
        with context():
            assert not lean_whisper.runs_lean(encoder)
        assert not lean_whisper.runs_lean(build_encoder(attention="eager"))


def test_gradients_reach_a_thawed_encoder() -> None:
    encoder = build_encoder().requires_grad_(True)
    encode_padded(encoder, torch.randn(1, 20, 3000)).sum().backward()
    assert encoder.layers[0].fc1.weight.grad is not None
