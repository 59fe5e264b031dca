"""What the two encoders make of a batch of audio, computed now or read from a feature cache.

Letters: B clips, M mel bins, T Whisper frames (50 per second), C Whisper width, P BEATs patches (as
many per second), D BEATs width.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.audio.features import kaldi_fbank
from audiolm.errors import UserError
from audiolm.models.beats import BEATs
from audiolm.models.whisper import encode_padded, encode_trimmed


@dataclass(frozen=True)
class EncoderSizes:
    """What the rest of the model must know of its encoders, which may not be there."""

    speech_width: int  # C
    audio_width: int  # D; 0: no BEATs
    num_mel_bins: int  # M
    max_frames: int  # T of 30 s

    @classmethod
    def of(cls, whisper_config: Any, audio_width: int) -> "EncoderSizes":
        """From Whisper's configuration and the width of BEATs (0: none)."""
        return cls(
            whisper_config.d_model,
            audio_width,
            whisper_config.num_mel_bins,
            whisper_config.max_source_positions,
        )

    @property
    def frame_width(self) -> int:
        """W, of Whisper's and BEATs' frames side by side."""
        return self.speech_width + self.audio_width


@dataclass(frozen=True)
class EncodedAudio:
    """Encoder outputs, before `ln_speech` and `ln_audio`.

    `speech` is (B, T, C). With BEATs, `audio` is (B, P, D), of which the first `num_patches` (B,)
    are each clip's own.
    """

    speech: torch.Tensor
    audio: torch.Tensor | None = None
    num_patches: torch.Tensor | None = None


def read_encoded(samples: Mapping[str, Any]) -> EncodedAudio | None:
    """The stored outputs that a batch carries instead of audio, if it does."""
    if "speech_frames" not in samples:
        return None
    return EncodedAudio(
        samples["speech_frames"], samples.get("audio_frames"), samples.get("num_audio_frames")
    )


def encode_audio(
    whisper: WhisperEncoder | None,
    beats: BEATs | None,
    spectrogram: torch.Tensor,
    raw_wav: torch.Tensor | None,
    num_samples: torch.Tensor,
    num_frames: torch.Tensor,
    *,
    is_trimmed: bool,
    frozen: frozenset[str] = frozenset({"speech_encoder", "beats"}),
) -> EncodedAudio:
    """Run both encoders. A clip's result does not depend on the others.

    Args:
        whisper: the speech encoder.
        beats: the general-audio encoder, if there is one.
        spectrogram: (B, M, 3000).
        raw_wav: (B, samples) at 16 kHz, for BEATs.
        num_samples: (B,) each clip's own samples.
        num_frames: (B,) frames that Whisper encodes, when trimmed.
        is_trimmed: Whisper sees those frames only, not all 30 s.
        frozen: `speech_encoder`, `beats` where they are (see `as_frozen`).

    Raises:
        UserError: the model was built without encoders.
        ValueError: BEATs without raw_wav.
    """
    if whisper is None:
        raise UserError(
            "this model was built without encoders, to train from datasets.feature_cache: give it "
            "the cache's batches, or build it with its encoders"
        )
    device_type = spectrogram.device.type
    with as_frozen(device_type) if "speech_encoder" in frozen else contextlib.nullcontext():
        if is_trimmed:
            speech = encode_trimmed(whisper, spectrogram, num_frames)
        else:
            speech = encode_padded(whisper, spectrogram)
    if beats is None:
        return EncodedAudio(speech)
    if raw_wav is None:
        raise ValueError("encode_speech needs raw_wav: this model has a BEATs encoder")
    with as_frozen(device_type) if "beats" in frozen else contextlib.nullcontext():
        fbank, num_fbank_frames = kaldi_fbank(raw_wav, num_samples)
        return EncodedAudio(speech, *beats(fbank, num_fbank_frames))


@contextlib.contextmanager
def as_frozen(device_type: str) -> Iterator[None]:
    """No gradients, and no autocast: a frozen encoder computes in its own number type, so that it
    gives the same numbers in training, in evaluation and in a feature cache."""
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield
