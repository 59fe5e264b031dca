"""Changes to training audio: speed, noise, gain, and masks on the log-mel (SpecAugment).

In: a waveform or its log-mel, and the generator of this clip in this epoch. Out: the changed copy.
What is drawn depends on the generator alone, so any split of the data over processes gives the
same audio.

Speed, noise and gain change the waveform, hence what Whisper and BEATs read. The masks are on
Whisper's log-mel only: BEATs' filterbank is computed from the waveform inside the model.

Shapes: M mel bins, T samples at 16 kHz, F frames of 10 ms.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from audiolm.audio.features import HOP_SAMPLES
from audiolm.audio.loading import (
    MAX_SECONDS,
    MIN_SECONDS,
    SAMPLE_RATE_HZ,
    AudioError,
    load_waveform,
    pad_to,
    resample,
)
from audiolm.errors import UserError

NOISE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")
MAX_SAMPLES = round(MAX_SECONDS * SAMPLE_RATE_HZ)

NoiseColour = Literal["white", "pink"]


def build_generator(text: str) -> np.random.Generator:
    """A generator seeded by a text: the same on every machine and in every process."""
    return np.random.default_rng(random.Random(text).getrandbits(128))


@dataclass(frozen=True)
class Augmenter:
    """What is changed, each by a value drawn evenly from its range; an empty range is off.

    Attributes:
        speed: (lowest, highest) factor; 1.1 is 10 % shorter and higher in pitch.
        noise_snr_db: (lowest, highest) ratio of the clip's mean power to the noise's.
        noise_share: share of the clips that get noise.
        noise_colour: of made noise: "white", or "pink" (power falls with frequency).
        noise_paths: files to take noise from instead; see `list_noise_files`.
        gain_db: (lowest, highest); a clip is never made louder than full scale.
        num_time_masks: masks over time in each log-mel.
        max_mask_seconds: longest of them.
        max_mask_share: longest of them, as a share of the clip's frames.
        num_frequency_masks: masks over mel bins in each log-mel.
        max_mask_bins: widest of them.
    """

    speed: Sequence[float] = ()
    noise_snr_db: Sequence[float] = ()
    noise_share: float = 1.0
    noise_colour: NoiseColour = "pink"
    noise_paths: Sequence[Path] = ()
    gain_db: Sequence[float] = ()
    num_time_masks: int = 0
    max_mask_seconds: float = 0.0
    max_mask_share: float = 1.0
    num_frequency_masks: int = 0
    max_mask_bins: int = 0

    def change_waveform(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(T,) float32 -> (T',) float32, 1 s <= T' <= 30 s: speed, then noise, then gain.

        Raises:
            UserError: a noise file cannot be read.
        """
        if self.speed:
            samples = change_speed(samples, draw_value(self.speed, generator))
        if self.noise_snr_db and generator.random() < self.noise_share:
            snr_db = draw_value(self.noise_snr_db, generator)
            samples = add_noise(samples, self._make_noise(len(samples), generator), snr_db)
        if self.gain_db:
            samples = change_gain(samples, draw_value(self.gain_db, generator))
        return samples

    def mask_log_mel(
        self, log_mel: Tensor, num_samples: int, generator: np.random.Generator
    ) -> Tensor:
        """(M, 3000) -> (M, 3000) with masks over the frames of `num_samples` of real audio.

        Time and frequency masks of SpecAugment (Park et al. 2019, section 2; no time warping).
        Masked cells get the mean of the clip's real frames, as in the paper, whose features have
        the mean 0. Frames after the audio stay as they are.
        """
        if not (self.num_time_masks or self.num_frequency_masks):
            return log_mel
        num_bins = log_mel.shape[0]
        num_frames = min(-(-num_samples // HOP_SAMPLES), log_mel.shape[1])
        log_mel = log_mel.clone()
        real = log_mel[:, :num_frames]  # (M, F), a view
        mean = real.mean()
        longest = min(
            round(self.max_mask_seconds * SAMPLE_RATE_HZ / HOP_SAMPLES),
            int(self.max_mask_share * num_frames),
        )
        for _ in range(self.num_time_masks):
            start, end = draw_span(longest, num_frames, generator)
            real[:, start:end] = mean
        for _ in range(self.num_frequency_masks):
            start, end = draw_span(self.max_mask_bins, num_bins, generator)
            real[start:end] = mean
        return log_mel

    def _make_noise(self, num_samples: int, generator: np.random.Generator) -> np.ndarray:
        """(T,) float32 noise of any power: from a file, or made."""
        if self.noise_paths:
            path = self.noise_paths[int(generator.integers(len(self.noise_paths)))]
            return load_noise(path, num_samples, generator)
        return make_noise(num_samples, self.noise_colour, generator)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """(T,) -> (T / factor,): played faster, pitch and all (Ko et al. 2015).

    A clip is slowed down no further than to 30 s, so that none of its words are cut off, and
    padded to 1 s if it gets shorter than that.
    """
    factor = max(factor, len(samples) / MAX_SAMPLES)
    changed = resample(samples, round(factor * SAMPLE_RATE_HZ))
    return pad_to(changed[:MAX_SAMPLES], round(MIN_SECONDS * SAMPLE_RATE_HZ))


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """(T,) signal plus (T,) noise scaled to a signal-to-noise ratio, mean powers over the clip.

    A silent signal or a silent noise has no ratio: the signal is returned as it is.
    """
    power, noise_power = (float(np.square(x, dtype=np.float64).mean()) for x in (samples, noise))
    if power == 0 or noise_power == 0:
        return samples
    scale = np.sqrt(power / noise_power) * 10 ** (-snr_db / 20)
    return (samples + scale * noise).astype(np.float32)


def change_gain(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """(T,) louder or softer by `gain_db`, or by less where that would exceed full scale."""
    peak = max(float(np.abs(samples).max()), np.finfo(np.float32).tiny)
    return samples * np.float32(min(10 ** (gain_db / 20), 1 / peak))


def make_noise(num_samples: int, colour: NoiseColour, generator: np.random.Generator) -> np.ndarray:
    """(T,) float32 Gaussian noise: white, or pink (power per Hz as 1/f above 20 Hz)."""
    noise = generator.standard_normal(num_samples, dtype=np.float32)
    if colour == "white":
        return noise
    spectrum = np.fft.rfft(noise)
    frequencies_hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    spectrum /= np.sqrt(np.maximum(frequencies_hz, 20.0))
    return np.fft.irfft(spectrum, num_samples).astype(np.float32)


def load_noise(path: Path, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """(T,) of a file from a random place on, repeated as often as needed; its first 30 s are used.

    Raises:
        UserError: it cannot be read.
    """
    try:
        waveform = load_waveform(path)
    except AudioError as error:
        raise UserError(f"noise to mix in (datasets.augment.noise_dir): {error}") from error
    num_source = max(round(waveform.source_seconds * SAMPLE_RATE_HZ), 1)
    source = waveform.samples[:num_source]  # without the silence that fills up a short file
    start = int(generator.integers(len(source)))
    return np.resize(np.roll(source, -start), num_samples)


def list_noise_files(folder: str | Path) -> list[Path]:
    """Audio files below a folder, sorted, so that a draw means the same file everywhere.

    Raises:
        UserError: there is none.
    """
    paths = [p for p in Path(folder).rglob("*") if p.suffix.lower() in NOISE_SUFFIXES]
    if not paths:
        raise UserError(
            f"datasets.augment.noise_dir: no audio file in {folder} "
            f"(looked for {', '.join(NOISE_SUFFIXES)})"
        )
    return sorted(paths)


def draw_value(ends: Sequence[float], generator: np.random.Generator) -> float:
    """A value drawn evenly from (lowest, highest)."""
    lowest, highest = ends
    return float(generator.uniform(lowest, highest))


def draw_span(longest: int, size: int, generator: np.random.Generator) -> tuple[int, int]:
    """Start and end of a mask: its width drawn from 0 to `longest`, then its place in `size`."""
    width = int(generator.integers(min(longest, size) + 1))
    start = int(generator.integers(size - width + 1))
    return start, start + width
