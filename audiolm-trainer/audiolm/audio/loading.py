"""Audio files in, waveforms out: float32, mono, 16 kHz, between 1 s and 30 s long.

Any format libsndfile reads, any rate, any number of channels (averaged). Shorter clips are padded
with zeros; longer ones are cut or refused, as the caller says. Nothing is ever replaced: a file
that cannot be used raises `AudioError`, and the caller decides what becomes of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from audiolm.errors import UserError

SAMPLE_RATE_HZ = 16_000
MIN_SECONDS = 1.0
MAX_SECONDS = 30.0
JOIN_SILENCE_SECONDS = 0.1

LongAudioPolicy = Literal["truncate", "error", "skip"]
AudioProblem = Literal["missing", "unreadable", "empty", "non_finite", "too_long"]


class AudioError(UserError):
    """A clip that cannot be used.

    Attributes:
        path: the file.
        problem: the kind of trouble, one of `AudioProblem`.
        reason: the same in words.
    """

    def __init__(self, path: str | Path, problem: AudioProblem, reason: str) -> None:
        super().__init__(f"audio file {path}: {reason}")
        self.path = str(path)
        self.problem: AudioProblem = problem
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, AudioProblem, str]]:
        # Data-loading workers send errors to the main process by pickling them.
        return type(self), (self.path, self.problem, self.reason)


@dataclass(frozen=True)
class Waveform:
    """A loaded clip.

    Attributes:
        samples: (T,) float32, 16 kHz, mono, 1 s <= T <= 30 s.
        source_seconds: length in the file(s), before padding and cutting.
        was_truncated: whether something beyond 30 s was cut off.
    """

    samples: np.ndarray
    source_seconds: float
    was_truncated: bool


def load_waveform(
    path: str | Path,
    *,
    long_audio: LongAudioPolicy = "truncate",
    extra_paths: Sequence[str | Path] = (),
) -> Waveform:
    """Load a clip, or several joined with 0.1 s of silence.

    Args:
        path: the file.
        long_audio: "truncate" keeps the first 30 s; "error" and "skip" both raise `AudioError`
            with `problem` "too_long" (whether that stops the run is the caller's affair).
        extra_paths: files to append.

    Raises:
        AudioError: a file is missing, unreadable, empty or holds NaN or infinity; or too long.
    """
    pieces: list[np.ndarray] = []
    source_seconds = 0.0
    for piece_path in (path, *extra_paths):
        if pieces:
            pieces.append(np.zeros(round(JOIN_SILENCE_SECONDS * SAMPLE_RATE_HZ), dtype=np.float32))
            source_seconds += JOIN_SILENCE_SECONDS
        samples, rate_hz, seconds = _read_mono(piece_path)
        source_seconds += seconds
        if source_seconds > MAX_SECONDS and long_audio != "truncate":
            raise AudioError(
                path,
                "too_long",
                f"{source_seconds:.1f} s long, at most {MAX_SECONDS:.0f} s are allowed; "
                'cut it, or set the policy for long audio to "truncate"',
            )
        if not extra_paths:
            # Before resampling, so that the end of a short clip rings out into the silence.
            samples = pad_to(samples, math.ceil(MIN_SECONDS * rate_hz))
        pieces.append(resample(samples, rate_hz))
    joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    joined = pad_to(joined, round(MIN_SECONDS * SAMPLE_RATE_HZ))
    return Waveform(
        samples=joined[: round(MAX_SECONDS * SAMPLE_RATE_HZ)],
        source_seconds=source_seconds,
        was_truncated=source_seconds > MAX_SECONDS,
    )


def audio_seconds(path: str | Path) -> float:
    """Length of a file by its header.

    Raises:
        AudioError: the file is missing or unreadable.
    """
    with _open_audio(path) as file:
        return file.frames / file.samplerate


def _open_audio(path: str | Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise AudioError(path, "missing", "no such file; check the path and datasets.prefix")
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if Path(path).stat().st_size == 0:
            raise AudioError(path, "empty", "the file is empty (0 bytes)") from error
        raise AudioError(path, "unreadable", f"cannot be read: {error.error_string}") from error


def _read_mono(path: str | Path) -> tuple[np.ndarray, int, float]:
    """Return (T,) float32 samples, at most 30 s of them, the rate, and the file's whole length."""
    with _open_audio(path) as file:
        rate_hz, seconds = file.samplerate, file.frames / file.samplerate
        try:
            frames = file.read(math.ceil(MAX_SECONDS * rate_hz), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(path, "unreadable", f"cannot be read: {error.error_string}") from error
    if frames.shape[0] == 0:
        raise AudioError(path, "empty", "it holds no samples")
    samples = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise AudioError(path, "non_finite", "it holds NaN or infinite samples")
    return samples, rate_hz, seconds


def resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """(T,) at `rate_hz` -> 16 kHz; what `librosa.resample(..., res_type="soxr_hq")` returns."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    num_samples = math.ceil(samples.shape[0] * SAMPLE_RATE_HZ / rate_hz)
    resampled = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return pad_to(resampled, num_samples)[:num_samples]


def pad_to(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Zeros at the end up to `num_samples`; a longer waveform stays as it is."""
    missing = num_samples - samples.shape[0]
    return np.pad(samples, (0, missing)) if missing > 0 else samples
