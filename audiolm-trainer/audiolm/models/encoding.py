"""What the two encoders make of a batch of audio, computed now or read from a feature cache.

Letters: B clips, M mel bins, T Whisper frames (50 per second), C Whisper width, P BEATs patches (as
many per second), D BEATs width.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.audio.features import kaldi_fbank
from audiolm.errors import UserError
from audiolm.models.beats import BEATs
from audiolm.models.whisper import collected_layers, encode_padded, encode_trimmed, mix_layers


@dataclass(frozen=True)
class EncoderSizes:
    """What the rest of the model must know of its encoders, which may not be there."""

    speech_width: int  # C
    audio_width: int  # D of the second stream: BEATs, or Whisper's layers; 0: none
    num_mel_bins: int  # M
    max_frames: int  # T of 30 s
    num_mixed: int = 0  # hidden states in the mix of Whisper's layers; 0: no mix

    @classmethod
    def of(cls, whisper_config: Any, beats_width: int, *, mixes_layers: bool) -> "EncoderSizes":
        """From Whisper's configuration and the width of BEATs (0: none)."""
        width = whisper_config.d_model
        return cls(
            width,
            width if mixes_layers else beats_width,
            whisper_config.num_mel_bins,
            whisper_config.max_source_positions,
            whisper_config.encoder_layers + 1 if mixes_layers else 0,
        )

    @property
    def frame_width(self) -> int:
        """W, of both streams' frames side by side."""
        return self.speech_width + self.audio_width


@dataclass(frozen=True)
class EncodedAudio:
    """Encoder outputs, before `ln_speech` and `ln_audio`.

    `speech` is (B, T, C). With a second stream, `audio` is (B, P, D), of which the first
    `num_patches` (B,) are each clip's own. Of a mix of Whisper's layers P is T, D is C.
    """

    speech: torch.Tensor
    audio: torch.Tensor | None = None
    num_patches: torch.Tensor | None = None

    @property
    def second_stream(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`audio` and `num_patches` of a model that has a second stream."""
        assert self.audio is not None
        assert self.num_patches is not None
        return self.audio, self.num_patches


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
    layer_weights: torch.Tensor | None = None,
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
        layer_weights: (layers + 1,) for a mix of Whisper's layers as the second stream.

    Raises:
        UserError: the model was built without encoders.
        ValueError: BEATs without raw_wav.
    """
    if whisper is None:
        raise UserError(
            "this model was built without encoders, to train from datasets.feature_cache: give it "
            "the cache's batches, or build it with its encoders"
        )
    if beats is not None and raw_wav is None:
        raise ValueError("encode_speech needs raw_wav: this model has a BEATs encoder")
    device = spectrogram.device

    def run_whisper() -> torch.Tensor:
        with as_frozen(device.type) if "speech_encoder" in frozen else contextlib.nullcontext():
            if is_trimmed:
                return encode_trimmed(whisper, spectrogram, num_frames)
            return encode_padded(whisper, spectrogram)

    def run_beats() -> tuple[torch.Tensor, torch.Tensor]:
        assert beats is not None
        assert raw_wav is not None
        with as_frozen(device.type) if "beats" in frozen else contextlib.nullcontext():
            return beats(*kaldi_fbank(raw_wav, num_samples))

    if layer_weights is not None:
        with collected_layers(whisper) as states:
            speech = run_whisper()
        # Outside of what is frozen: the weights train.
        return EncodedAudio(speech, mix_layers(states, layer_weights), num_frames)
    if beats is None:
        return EncodedAudio(run_whisper())
    speech, (audio, num_patches) = run_side_by_side(device, run_whisper, run_beats)
    return EncodedAudio(speech, audio, num_patches)


def run_side_by_side(
    device: torch.device,
    first: Callable[[], torch.Tensor],
    second: Callable[[], tuple[torch.Tensor, ...]],
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Results of two calls that do not need each other; on a GPU they run on two streams."""
    if device.type != "cuda":
        return first(), second()
    main_stream, side_stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side_stream.wait_stream(main_stream)  # the inputs are there
    first_result = first()
    with torch.cuda.stream(side_stream):
        second_result = second()
    main_stream.wait_stream(side_stream)
    for tensor in second_result:  # its memory is not given to others before the main stream is done
        tensor.record_stream(main_stream)
    return first_result, second_result


@contextlib.contextmanager
def as_frozen(device_type: str) -> Iterator[None]:
    """No gradients, and no autocast: a frozen encoder computes in its own number type, so that it
    gives the same numbers in training, in evaluation and in a feature cache."""
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield
