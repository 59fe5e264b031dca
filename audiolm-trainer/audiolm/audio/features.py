"""Waveforms in, encoder inputs out: Whisper's log-mel spectrogram and BEATs' Kaldi filterbank.

Both equal the tools the encoders were trained with (`transformers.WhisperFeatureExtractor`, Kaldi's
`compute-fbank-feats` as torchaudio ports it), and both compute only the frames that hold audio.

Shapes: T samples at 16 kHz, M mel bins, F frames of 10 ms, B clips.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.errors import UserError

HOP_SAMPLES = 160  # 10 ms; both features

WHISPER_FFT_SAMPLES = 400
WHISPER_NUM_SAMPLES = 30 * SAMPLE_RATE_HZ
WHISPER_NUM_FRAMES = WHISPER_NUM_SAMPLES // HOP_SAMPLES  # 3000
WHISPER_FLOOR = 1e-10  # of the mel power
WHISPER_RANGE = 8.0  # decades below the loudest bin of the clip

NUM_FBANK_BINS = 128
FBANK_WINDOW_SAMPLES = 400
FBANK_FFT_SAMPLES = 512
FBANK_LOW_HZ = 20.0
FBANK_PREEMPHASIS = 0.97
FBANK_POWER_FLOOR = 1.1920928955078125e-07  # float32 epsilon, as in Kaldi
FBANK_WAVEFORM_SCALE = 2.0**15  # Kaldi reads 16-bit integers
FBANK_MEAN = 15.41663  # of AudioSet; from the BEATs release
FBANK_STD = 6.55582


class LogMel:
    """Whisper's log-mel spectrogram, padded with silence to 30 s.

    The extractor of transformers transforms all 30 s. Frames that see only zeros all hold one and
    the same value, so they are filled in instead.
    """

    def __init__(self, num_mel_bins: int) -> None:
        from transformers.audio_utils import mel_filter_bank

        self.num_mel_bins = num_mel_bins
        filters = mel_filter_bank(
            num_frequency_bins=1 + WHISPER_FFT_SAMPLES // 2,
            num_mel_filters=num_mel_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=SAMPLE_RATE_HZ,
            norm="slaney",
            mel_scale="slaney",
        )
        self.mel_filters = torch.from_numpy(np.ascontiguousarray(filters.T)).float()  # (M, 201)
        self.window = torch.hann_window(WHISPER_FFT_SAMPLES)

    @classmethod
    def from_pretrained(cls, whisper_path: str | Path, *, token: str | None = None) -> "LogMel":
        """Take the number of mel bins from a Whisper folder or hub id (`preprocessor_config.json`).

        Raises:
            UserError: there is no such file, or it asks for other frames than Whisper's 30 s,
                16 kHz, 25 ms, 10 ms.
        """
        from transformers import WhisperFeatureExtractor

        try:
            extractor = WhisperFeatureExtractor.from_pretrained(
                str(whisper_path), token=token or None
            )
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"whisper_path: cannot read preprocessor_config.json of {whisper_path}; give a "
                "Whisper folder that holds it, or a hub id (which needs the network or a cache)"
            ) from error
        expected = {
            "sampling_rate": SAMPLE_RATE_HZ,
            "n_fft": WHISPER_FFT_SAMPLES,
            "hop_length": HOP_SAMPLES,
            "n_samples": WHISPER_NUM_SAMPLES,
            "padding_value": 0.0,
            "dither": 0.0,
        }
        for name, value in expected.items():
            found = getattr(extractor, name)
            if found != value:
                raise UserError(
                    f"whisper_path: {name} is {found} in preprocessor_config.json of "
                    f"{whisper_path}, only Whisper's {value} is supported"
                )
        return cls(extractor.feature_size)  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) float32 waveform, of which at most 30 s are used -> (M, 3000) float32."""
        samples = torch.as_tensor(waveform, dtype=torch.float32)[:WHISPER_NUM_SAMPLES]
        # A frame reaches half a window around its centre: one whole window of zeros after the audio
        # makes the last frames equal those of the fully padded clip.
        num_needed = samples.shape[0] + WHISPER_FFT_SAMPLES
        num_frames = min(-(-num_needed // HOP_SAMPLES), WHISPER_NUM_FRAMES)
        padding = num_frames * HOP_SAMPLES - samples.shape[0]
        samples = torch.nn.functional.pad(samples, (0, padding))
        spectrum = torch.stft(
            samples, WHISPER_FFT_SAMPLES, HOP_SAMPLES, window=self.window, return_complex=True
        )
        power = _compute_power(spectrum[:, :-1])  # (201, F); the last frame is dropped
        log_mel = (self.mel_filters @ power).clamp_(min=WHISPER_FLOOR).log10_()  # (M, F)
        floor = log_mel.max() - WHISPER_RANGE
        silence = torch.tensor(WHISPER_FLOOR).log10()
        output = torch.empty(self.num_mel_bins, WHISPER_NUM_FRAMES)
        torch.maximum(log_mel, floor, out=output[:, :num_frames])
        output[:, num_frames:] = torch.maximum(silence, floor)
        return output.add_(4.0).div_(4.0)


def num_fbank_frames(num_samples: int) -> int:
    """Frames of a clip: whole 25 ms windows, one every 10 ms."""
    return max(0, 1 + (num_samples - FBANK_WINDOW_SAMPLES) // HOP_SAMPLES)


def kaldi_fbank(waveforms: Tensor, num_samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """BEATs' input: 128 log mel energies per 10 ms, normalised by AudioSet's mean and deviation.

    Kaldi's recipe (povey window, DC removal, pre-emphasis, snipped edges, no dither) in float64: in
    float32 the bins of quiet frames differ by up to 1e-3 from one implementation to the next.

    Args:
        waveforms: (B, T) at 16 kHz, full scale 1.
        num_samples: (B,) each clip's own length; None means that all fill T.

    Returns:
        fbank (B, F, 128) float32, zero beyond a clip's own frames, and num_frames (B,) int64. Each
        clip is computed from its own samples alone: a batch equals its clips one by one.
    """
    if num_samples is None:
        lengths = [waveforms.shape[1]] * waveforms.shape[0]
    else:
        lengths = [int(length) for length in num_samples.tolist()]
    counts = [num_fbank_frames(length) for length in lengths]
    window, mel_filters = (part.to(waveforms.device) for part in _build_fbank_constants())
    fbank = waveforms.new_zeros((len(lengths), max(counts), NUM_FBANK_BINS), dtype=torch.float32)
    for index, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        if count:
            clip = waveforms[index, :length].double() * FBANK_WAVEFORM_SCALE
            fbank[index, :count] = _compute_clip_fbank(clip, window, mel_filters)
    return fbank, torch.tensor(counts, device=waveforms.device)


def _compute_clip_fbank(clip: Tensor, window: Tensor, mel_filters: Tensor) -> Tensor:
    """(T,) float64 -> (F, 128) float64."""
    # Kaldi takes the mean of every frame away, then emphasises. Emphasising the whole clip first
    # and taking away the emphasised mean is the same, except for a frame's first sample, which
    # lacks its predecessor in Kaldi; the window is zero there.
    means = clip.unfold(0, FBANK_WINDOW_SAMPLES, HOP_SAMPLES).mean(dim=1, keepdim=True)  # (F, 1)
    emphasised = torch.cat([clip[:1], clip[1:] - FBANK_PREEMPHASIS * clip[:-1]])
    frames = emphasised.unfold(0, FBANK_WINDOW_SAMPLES, HOP_SAMPLES)  # (F, 400)
    frames = (frames - (1 - FBANK_PREEMPHASIS) * means) * window
    spectrum = torch.fft.rfft(frames, n=FBANK_FFT_SAMPLES)  # (F, 257)
    energies = _compute_power(spectrum) @ mel_filters  # (F, 128)
    log_energies = energies.clamp_(min=FBANK_POWER_FLOOR).log_()
    return log_energies.sub_(FBANK_MEAN).div_(2 * FBANK_STD)


def _compute_power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


@functools.cache
def _build_fbank_constants() -> tuple[Tensor, Tensor]:
    """Return the povey window (400,) and Kaldi's triangular mel filters (257, 128), float64."""
    hann = torch.hann_window(FBANK_WINDOW_SAMPLES, periodic=False, dtype=torch.float64)
    limits_hz = torch.tensor([FBANK_LOW_HZ, SAMPLE_RATE_HZ / 2], dtype=torch.float64)
    low, high = _hz_to_mel(limits_hz).tolist()
    edges = torch.linspace(low, high, NUM_FBANK_BINS + 2, dtype=torch.float64)
    bins_hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, 1 + FBANK_FFT_SAMPLES // 2, dtype=torch.float64)
    mel = _hz_to_mel(bins_hz).unsqueeze(1)  # (257, 1)
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return hann**0.85, torch.minimum(rising, falling).clamp(min=0.0)


def _hz_to_mel(frequencies_hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequencies_hz / 700.0)
