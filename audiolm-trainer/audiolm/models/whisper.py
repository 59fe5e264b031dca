"""The Whisper encoder: log-mel in, 50 Hz hidden states out. The decoder is never built.

Letters: B clips, M mel bins, T encoder frames (50 per second), C encoder width.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.models.lean_whisper import run_layers, runs_lean
from audiolm.models.pretrained import explained_errors, load_pretrained, read_config

FRAMES_PER_SECOND = 50  # encoder frames; two mel frames each
SAMPLES_PER_FRAME = 320  # at 16 kHz
MEL_PER_FRAME = 2


def load_whisper_encoder(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "auto",
    token: str = "",
) -> WhisperEncoder:
    """Load the encoder half of a Whisper folder or hub id, in eval mode.

    Raises:
        UserError: `path` is neither a Whisper folder nor a hub id that can be fetched.
    """
    encoder = load_pretrained(
        WhisperEncoder,
        path,
        option="model.whisper_path",
        dtype=dtype,
        attn_implementation=attn_implementation,
        token=token,
        config_class=WhisperConfig,
        key_mapping={r"^(model\.)?encoder\.": ""},
    )
    return encoder.eval()


def read_whisper_config(path: str, token: str = "") -> WhisperConfig:
    """The configuration of a Whisper folder or hub id, without its weights.

    Raises:
        UserError: `path` is neither a Whisper folder nor a hub id that can be fetched.
    """
    with explained_errors("model.whisper_path", path):
        return read_config(WhisperConfig, path, "model.whisper_path", token)


def encode_padded(encoder: WhisperEncoder, spectrogram: torch.Tensor) -> torch.Tensor:
    """(B, M, 3000) -> (B, 1500, C): Whisper as it was trained, silence included."""
    if not runs_lean(encoder):
        return encoder(spectrogram.to(encoder.conv1.weight.dtype)).last_hidden_state
    num_frames = torch.full((len(spectrogram),), spectrogram.shape[-1] // MEL_PER_FRAME)
    return encode_trimmed(encoder, spectrogram, num_frames)


def encode_trimmed(
    encoder: WhisperEncoder, spectrogram: torch.Tensor, num_frames: torch.Tensor
) -> torch.Tensor:
    """Encode only the first `num_frames[i]` frames of clip i; later frames come out as zeros.

    Position embeddings are cut to the length. Each clip attends to its own frames only, and the
    convolutions see zeros after its end, so the result does not depend on the other clips.

    spectrogram (B, M, 3000), num_frames (B,) -> (B, max(num_frames), C)
    """
    longest = int(num_frames.max())
    is_mixed = bool((num_frames < longest).any())
    positions = torch.arange(longest, device=spectrogram.device)
    is_real = positions < num_frames[:, None]  # (B, T)

    mel = spectrogram[:, :, : MEL_PER_FRAME * longest].to(encoder.conv1.weight.dtype)
    is_real_mel = is_real.repeat_interleave(MEL_PER_FRAME, dim=1)[:, None]  # (B, 1, 2T)
    if is_mixed:
        mel = mel * is_real_mel
    is_lean = runs_lean(encoder)
    activate = torch.ops.aten.gelu_ if is_lean else nn.functional.gelu
    hidden = activate(encoder.conv1(mel))
    if is_mixed:
        hidden = hidden * is_real_mel
    hidden = activate(encoder.conv2(hidden))
    hidden = hidden.transpose(1, 2) + encoder.embed_positions(positions)  # (B, T, C)

    mask = _key_mask(encoder, is_real, hidden.dtype) if is_mixed else None
    if is_lean:
        hidden = run_layers(encoder, hidden, mask)
    else:
        for layer in encoder.layers:
            hidden = layer(hidden, mask)
    hidden = encoder.layer_norm(hidden)
    return hidden * is_real[:, :, None] if is_mixed else hidden


@contextlib.contextmanager
def collected_layers(encoder: WhisperEncoder) -> Iterator[list[torch.Tensor]]:
    """A list that an encoding inside fills with hidden states (B, T, C): what enters the first
    layer and what each layer gives, before the final layer norm."""
    states: list[torch.Tensor] = []

    def note_input(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        states.append(inputs[0])

    def note_output(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        states.append(output)

    handles = [encoder.layers[0].register_forward_pre_hook(note_input)]
    handles += [layer.register_forward_hook(note_output) for layer in encoder.layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def build_layer_weights(num_states: int) -> nn.Parameter | None:
    """Weights of a mix of so many hidden states, equal at first; None for none."""
    return nn.Parameter(torch.zeros(num_states)) if num_states else None


def mix_layers(states: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Sum of hidden states, each (B, T, C), by the softmax of `weights` (layers + 1,), in float32.

    Source: Yang et al. 2021, "SUPERB: Speech processing Universal PERformance Benchmark",
    section 3: a frozen encoder's features are a learned weighted sum of all its hidden states.
    """
    shares = weights.float().softmax(0)
    mixed = shares[0] * states[0].float()
    for share, state in zip(shares[1:], states[1:], strict=True):
        mixed = mixed + share * state.float()
    return mixed


def _key_mask(encoder: WhisperEncoder, is_real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask a layer's attention takes: additive (B, 1, T, T), or (B, T) for flash attention."""
    if "flash" in (encoder.config._attn_implementation or ""):
        return is_real
    num_frames = is_real.shape[1]
    mask = torch.zeros(is_real.shape, dtype=dtype, device=is_real.device)
    mask = mask.masked_fill(~is_real, torch.finfo(dtype).min)
    return mask[:, None, None, :].expand(-1, 1, num_frames, -1)
