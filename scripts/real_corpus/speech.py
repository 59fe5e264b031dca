"""Synthetic speech of the real run's corpus, at 8 kHz as the recordings are.

In: texts and a folder. Out: `audio/synthetic/NUMBER.wav` and the entries of an annotation. Most
clips are spoken by espeak-ng, which computes its sounds from rules; `flite`, where it is given,
speaks the others with voices made of recordings of four people. Used by `make_real_corpus.py`.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiolm.audio.loading import SAMPLE_RATE_HZ, load_waveform
from audiolm.data.demo.plan import SpeechClip
from audiolm.data.demo.rendering import render_clips, trim_silence
from audiolm.data.demo.speech import TRAIN_SPEAKERS, list_voices, resample
from audiolm.errors import UserError

TELEPHONE_HZ = 8000
FLITE_VOICES = ("slt", "slt", "rms", "awb", "kal16")  # slt, a woman's, twice as often
REPORT_CLIPS = 500


def synthesize(
    folder: Path, rng: np.random.Generator, texts: Sequence[str], flite: str, seed: int
) -> list[dict[str, Any]]:
    """Speak every text: with `flite` (a command) every other one, the rest with espeak-ng."""
    paths = [f"audio/synthetic/{number:05d}.wav" for number in range(len(texts))]
    clips = list(zip(paths, texts, strict=True))
    speak_with_espeak(folder, rng, clips[::2] if flite else clips, seed)
    if flite:
        speak_with_flite(folder, rng, clips[1::2], flite)
    return [
        {"path": path, "text": text, "task": "asr", "kind": "synthetic",
         "duration": soundfile.info(folder / path).duration}
        for path, text in clips
    ]  # fmt: skip


def speak_with_espeak(
    folder: Path, rng: np.random.Generator, clips: Sequence[tuple[str, str]], seed: int
) -> None:
    """Write (path, text) clips in the demo corpus's training voices."""
    voices = list_voices(TRAIN_SPEAKERS)
    speech = [
        SpeechClip(
            path=path,
            split="train",
            part="full",
            text=text,
            voice=voices[int(rng.integers(len(voices)))],
            words_per_minute=int(rng.integers(120, 190)),
            pitch=int(rng.integers(30, 76)),
        )
        for path, text in clips
    ]
    render_clips(speech, [], folder, seed=seed, num_processes=1, report=print)
    for path, _ in clips:
        samples, _ = soundfile.read(folder / path, dtype="float32")
        write_telephone(folder / path, samples)


def speak_with_flite(
    folder: Path, rng: np.random.Generator, clips: Sequence[tuple[str, str]], flite: str
) -> None:
    """Write (path, text) clips, up to 15 % slower or faster, 10 % lower or higher, with noise.

    Raises:
        UserError: the command does not speak.
    """
    from audiolm.audio.augment import add_noise, change_gain, change_speed

    for number, (path, text) in enumerate(clips, 1):
        voice = FLITE_VOICES[int(rng.integers(len(FLITE_VOICES)))]
        stretch = f"duration_stretch={rng.uniform(0.87, 1.15):.3f}"
        command = [flite, "-voice", voice, "--setf", stretch, "-t", text, "-o", str(folder / path)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            samples = load_waveform(folder / path).samples  # 16 kHz
        except (subprocess.CalledProcessError, ValueError, OSError) as error:
            reason = getattr(error, "stderr", None) or error
            raise UserError(f"--flite: {' '.join(command)} failed: {reason}") from error
        samples = change_speed(samples, float(rng.uniform(0.9, 1.1)))
        samples = trim_silence(samples, tuple(rng.uniform(0.05, 0.1, 2)))
        noise = rng.standard_normal(len(samples)).astype(np.float32)
        samples = add_noise(samples, noise, float(rng.uniform(20, 45)))
        write_telephone(folder / path, change_gain(samples, float(rng.uniform(-10, 3))))
        if number % REPORT_CLIPS == 0:
            print(f"flite: {number} of {len(clips)} clips")


def write_telephone(path: Path, samples: np.ndarray) -> float:
    """Write 16 kHz samples (T,) at 8 kHz, as the recordings are; the seconds written."""
    samples = resample(samples, SAMPLE_RATE_HZ, TELEPHONE_HZ)
    soundfile.write(path, np.clip(samples, -1, 1), TELEPHONE_HZ, subtype="PCM_16")
    return len(samples) / TELEPHONE_HZ
