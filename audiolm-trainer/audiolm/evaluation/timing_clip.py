"""The clip that efficiency is measured on: a file, or a synthetic one of any length.

In: a path, or a length and a seed. Out: the waveform (T,) float32 at 16 kHz and where it is from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        source: the file, or `synthetic`.
        was_cut: whether the file holds more than was taken.
    """

    samples: np.ndarray
    source: str
    was_cut: bool

    @property
    def seconds(self) -> float:
        """Length of what is timed."""
        return len(self.samples) / SAMPLE_RATE_HZ


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
        return TimingClip(waveform.samples, str(path), waveform.was_truncated)
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    if num_samples > round(waveform.source_seconds * SAMPLE_RATE_HZ):
        raise UserError(
            f"--seconds {seconds:g}: {path} is only {waveform.source_seconds:.2f} s long; "
            "leave --seconds out to use all of it"
        )
    was_cut = waveform.was_truncated or num_samples < len(waveform.samples)
    return TimingClip(waveform.samples[:num_samples], str(path), was_cut)


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


def _check_seconds(seconds: float) -> None:
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:  # also refuses NaN
        raise UserError(
            f"--seconds {seconds:g}: a clip is {MIN_SECONDS:g} to {MAX_SECONDS:g} s long"
        )
