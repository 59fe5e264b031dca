"""The clip that efficiency is measured on: a file, or a synthetic voice or noise of any length.

In: a path, or a length and a seed. Out: the waveform (T,) float32 at 16 kHz, where it is from, and
a file to read it from, so that reading can be timed.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from audiolm.audio.loading import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE_HZ, load_waveform
from audiolm.errors import UserError

DEFAULT_SECONDS = 10.0
SYLLABLE_SECONDS = 0.2
PAUSE_SHARE = 0.2  # of the syllables
PITCH_HZ = (90.0, 220.0)
NUM_HARMONICS = 20
NOISE_LEVEL = 0.01
PEAK_LEVEL = 0.5


@dataclass(frozen=True)
class TimingClip:
    """A clip to time.

    Attributes:
        samples: (T,) float32, 16 kHz.
        source: the file, or `synthetic` or `noise`.
        was_cut: whether the file holds more than was taken.
        path: the file; None of a made clip, until `store_clip`.
    """

    samples: np.ndarray
    source: str
    was_cut: bool
    path: str | None = None

    @property
    def seconds(self) -> float:
        """Length of what is timed."""
        return len(self.samples) / SAMPLE_RATE_HZ

    def read(self) -> np.ndarray:
        """The same samples from the file, decoded anew."""
        assert self.path is not None, "store_clip() first"
        return load_waveform(self.path).samples[: len(self.samples)]


def load_timing_clip(path: str | Path, seconds: float | None = None) -> TimingClip:
    """The first `seconds` of a file; None: all of it, at most 30 s.

    Raises:
        UserError: a length that is not allowed, or that the file does not have.
        AudioError: the file is missing or unreadable.
    """
    if seconds is not None:
        _check_seconds(seconds)
    waveform = load_waveform(path)
    if seconds is None:
        return TimingClip(waveform.samples, str(path), waveform.was_truncated, str(path))
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    if num_samples > round(waveform.source_seconds * SAMPLE_RATE_HZ):
        raise UserError(
            f"--seconds {seconds:g}: {path} is only {waveform.source_seconds:.2f} s long; "
            "leave --seconds out to use all of it"
        )
    was_cut = waveform.was_truncated or num_samples < len(waveform.samples)
    return TimingClip(waveform.samples[:num_samples], str(path), was_cut, str(path))


def build_synthetic_clip(seconds: float, seed: int) -> TimingClip:
    """A voice-like signal: gliding harmonics in syllables and pauses, over faint noise.

    Raises:
        UserError: a length that is not allowed.
    """
    _check_seconds(seconds)
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    knots = np.arange(0, seconds + SYLLABLE_SECONDS, SYLLABLE_SECONDS)
    pitch_hz = np.interp(times, knots, generator.uniform(*PITCH_HZ, len(knots)))
    loudness = generator.uniform(0.3, 1.0, len(knots))
    loudness[generator.random(len(knots)) < PAUSE_SHARE] = 0.0
    cycles = np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros_like(times)
    for harmonic in range(1, NUM_HARMONICS + 1):
        offset = generator.random()
        voice += np.cos(2 * np.pi * (harmonic * cycles + offset)) / harmonic
    signal = voice * np.interp(times, knots, loudness)
    signal += NOISE_LEVEL * generator.standard_normal(len(times))
    signal *= PEAK_LEVEL / np.abs(signal).max()
    return TimingClip(signal.astype(np.float32), "synthetic", was_cut=False)


def build_noise_clip(seconds: float, seed: int) -> TimingClip:
    """White noise, as the organiser's tool uses it.

    Raises:
        UserError: a length that is not allowed.
    """
    _check_seconds(seconds)
    generator = np.random.default_rng(seed)
    noise = generator.uniform(-PEAK_LEVEL, PEAK_LEVEL, round(seconds * SAMPLE_RATE_HZ))
    return TimingClip(noise.astype(np.float32), "noise", was_cut=False)


def store_clip(clip: TimingClip, folder: Path) -> TimingClip:
    """A made clip as a 16 kHz WAV in `folder`, in single precision: reading gives its samples."""
    if clip.path is not None:
        return clip
    path = folder / f"{clip.source}_{clip.seconds:g}.wav"
    soundfile.write(path, clip.samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    return replace(clip, path=str(path))


def _check_seconds(seconds: float) -> None:
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:  # also refuses NaN
        raise UserError(
            f"--seconds {seconds:g}: a clip is {MIN_SECONDS:g} to {MAX_SECONDS:g} s long"
        )
