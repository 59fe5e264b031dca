"""Audio files in, waveforms out: float32, mono, 16 kHz, between 1 s and 30 s long.

Any format libsndfile reads (wav, flac, ogg, mp3, opus, ...) and, where ffmpeg is installed, m4a and
its like; any rate, any number of channels (averaged). Of a long file only the wanted span is read.
Shorter clips are padded with zeros; longer ones are cut or refused, as the caller says. Nothing is
ever replaced: a file that cannot be used raises `AudioError`, and the caller decides what becomes
of it.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
import soundfile
import soxr

from audiolm.audio.ffmpeg import (
    FfmpegError,
    decode_with_ffmpeg,
    measure_with_ffmpeg,
    needs_ffmpeg,
)
from audiolm.errors import UserError

SAMPLE_RATE_HZ = 16_000
MIN_SECONDS = 1.0
MAX_SECONDS = 30.0
JOIN_SILENCE_SECONDS = 0.1
MP3_RUN_UP_FRAMES = 16_384  # read and dropped: libsndfile's first 5,500 after a seek are wrong
SPAN_SLACK_SECONDS = 0.5  # by which a span may end after its file; transcripts are timed roughly

LongAudioPolicy = Literal["truncate", "error", "skip"]
AudioProblem = Literal["missing", "unreadable", "empty", "non_finite", "outside", "too_long"]


@dataclass(frozen=True)
class AudioBytes:
    """An audio file in memory, and what to call it in messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


AudioSource = str | Path | AudioBytes


class AudioError(UserError):
    """A clip that cannot be used.

    Attributes:
        path: the file.
        problem: the kind of trouble, one of `AudioProblem`.
        reason: the same in words.
    """

    def __init__(self, path: AudioSource, problem: AudioProblem, reason: str) -> None:
        super().__init__(f"audio file {path}: {reason}")
        self.path = str(path)
        self.problem: AudioProblem = problem
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, AudioProblem, str]]:
        # Data-loading workers send errors to the main process by pickling them.
        return type(self), (self.path, self.problem, self.reason)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a file that a clip is.

    Attributes:
        offset_seconds: where it starts.
        seconds: how long it is; None: to the end of the file.
    """

    offset_seconds: float
    seconds: float | None = None


WHOLE_FILE = Span(0.0)


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
    path: AudioSource,
    *,
    long_audio: LongAudioPolicy = "truncate",
    extra_paths: Sequence[AudioSource] = (),
    span: Span = WHOLE_FILE,
) -> Waveform:
    """Load a clip, or several joined with 0.1 s of silence.

    Args:
        path: the file, or its bytes.
        long_audio: "truncate" keeps the first 30 s; "error" and "skip" both raise `AudioError`
            with `problem` "too_long" (whether that stops the run is the caller's affair).
        extra_paths: files to append, whole.
        span: the part of `path` that is the clip; nothing else of it is decoded.

    Raises:
        AudioError: a file is missing, unreadable, empty or holds NaN or infinity; the span is not
            in it; or the clip is too long.
    """
    pieces: list[np.ndarray] = []
    source_seconds = 0.0
    sources: list[tuple[AudioSource, Span]] = [(path, span)]
    sources += [(extra, WHOLE_FILE) for extra in extra_paths]
    for piece_path, piece_span in sources:
        if pieces:
            pieces.append(np.zeros(round(JOIN_SILENCE_SECONDS * SAMPLE_RATE_HZ), dtype=np.float32))
            source_seconds += JOIN_SILENCE_SECONDS
        samples, rate_hz, seconds = _read_mono(piece_path, piece_span)
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


def audio_seconds(path: AudioSource, span: Span = WHOLE_FILE) -> float:
    """Length of a file, or of a span of it, by the file's header.

    Raises:
        AudioError: the file is missing or unreadable, or the span is not in it.
    """
    _check_is_file(path)
    if _needs_ffmpeg(path):
        try:
            return _clip_seconds(path, measure_with_ffmpeg(path), span)
        except FfmpegError as error:
            raise AudioError(path, "unreadable", f"cannot be read: {error}") from error
    with _open_audio(path) as file:
        return _clip_seconds(path, file.frames / file.samplerate, span)


def read_frames(
    path: AudioSource, span: Span = WHOLE_FILE, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, int, float]:
    """Read a span of a file as it is: no mixing, no resampling.

    Returns:
        (T, C) float32 frames, at most `max_seconds` of them; the rate in Hz; the length of the
        whole span in seconds.

    Raises:
        AudioError: the file is missing, unreadable or empty, or the span is not in it.
    """
    _check_is_file(path)
    if _needs_ffmpeg(path):
        frames, rate_hz, seconds = _read_with_ffmpeg(path, span, max_seconds)
    else:
        frames, rate_hz, seconds = _read_with_libsndfile(path, span, max_seconds)
    if frames.shape[0] == 0:
        raise AudioError(path, "empty", "it holds no samples")
    return frames, rate_hz, seconds


def _check_is_file(path: AudioSource) -> None:
    if isinstance(path, AudioBytes):
        num_bytes = len(path.content)
    elif Path(path).is_file():
        num_bytes = Path(path).stat().st_size
    else:
        raise AudioError(path, "missing", "no such file; check the path and datasets.prefix")
    if num_bytes == 0:
        raise AudioError(path, "empty", "the file is empty (0 bytes)")


def _needs_ffmpeg(path: AudioSource) -> TypeGuard[str | Path]:
    return not isinstance(path, AudioBytes) and needs_ffmpeg(path)


def _open_audio(path: AudioSource) -> soundfile.SoundFile:
    try:
        is_bytes = isinstance(path, AudioBytes)
        return soundfile.SoundFile(io.BytesIO(path.content) if is_bytes else path)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, "unreadable", f"cannot be read: {error.error_string}") from error


def _clip_seconds(path: AudioSource, file_seconds: float, span: Span) -> float:
    """Length of the span in a file of this length, once it is known to be in it."""
    left = file_seconds - span.offset_seconds
    if span.offset_seconds and left <= 0:
        reason = f"starts at {span.offset_seconds:g} s"
    elif span.seconds is not None and span.seconds > left + SPAN_SLACK_SECONDS:
        reason = f"ends at {span.offset_seconds + span.seconds:g} s"
    else:
        return left if span.seconds is None else min(left, span.seconds)
    raise AudioError(path, "outside", f"the clip {reason}, the file is {file_seconds:g} s long")


def _read_with_libsndfile(
    path: AudioSource, span: Span, max_seconds: float
) -> tuple[np.ndarray, int, float]:
    with _open_audio(path) as file:
        rate_hz = file.samplerate
        seconds = _clip_seconds(path, file.frames / rate_hz, span)
        try:
            start = min(round(span.offset_seconds * rate_hz), file.frames)
            run_up = min(start, MP3_RUN_UP_FRAMES) if file.format == "MP3" else 0
            if start:
                file.seek(start - run_up)
            num_frames = math.ceil(min(max_seconds, seconds) * rate_hz)
            if span.seconds is not None:
                num_frames = min(num_frames, round(span.seconds * rate_hz))
            frames = file.read(run_up + num_frames, dtype="float32", always_2d=True)[run_up:]
        except soundfile.LibsndfileError as error:
            raise AudioError(path, "unreadable", f"cannot be read: {error.error_string}") from error
    num_missing = min(num_frames, round(seconds * rate_hz)) - frames.shape[0]
    if num_missing > SPAN_SLACK_SECONDS * rate_hz:
        reason = f"it is cut short: {num_missing / rate_hz:.1f} s that its header promises are gone"
        raise AudioError(path, "unreadable", reason)
    return frames, rate_hz, seconds


def _read_with_ffmpeg(
    path: str | Path, span: Span, max_seconds: float
) -> tuple[np.ndarray, int, float]:
    wanted = max_seconds if span.seconds is None else min(max_seconds, span.seconds)
    try:
        frames, rate_hz, file_seconds = decode_with_ffmpeg(
            path, offset_seconds=span.offset_seconds, max_seconds=wanted
        )
    except FfmpegError as error:
        raise AudioError(path, "unreadable", f"cannot be read: {error}") from error
    return frames, rate_hz, _clip_seconds(path, file_seconds, span)


def _read_mono(path: AudioSource, span: Span) -> tuple[np.ndarray, int, float]:
    """Return (T,) float32 samples, at most 30 s of them, the rate, and the span's whole length."""
    frames, rate_hz, seconds = read_frames(path, span)
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
