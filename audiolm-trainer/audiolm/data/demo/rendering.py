"""Turn planned clips into WAV files, several processes at a time.

In: `SpeechClip`s and `SceneClip`s, a folder, the seed. Out: 16 kHz 16-bit mono WAV files under the
folder, and each file's length in seconds.

espeak-ng remembers things from one utterance to the next, so clips are cut into shards of a fixed
size and every shard gets a fresh process: the files do not depend on the number of processes.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import soundfile

from audiolm.data.demo.plan import SceneClip, SpeechClip
from audiolm.data.demo.scenes import render_scene
from audiolm.data.demo.speech import SAMPLE_RATE_HZ, Synthesizer
from audiolm.errors import UserError

_SHARD_SIZE = 800
_SPEECH_STREAM, _SCENE_STREAM = 3, 4  # of random numbers, beside the plan's 1 and 2


@dataclass(frozen=True)
class Shard:
    """Clips `first`, `first + 1`, ... of one kind, to be made in one process."""

    clips: Sequence[SpeechClip] | Sequence[SceneClip]
    first: int
    seed: int
    folder: Path


def render_clips(
    speech: Sequence[SpeechClip],
    scenes: Sequence[SceneClip],
    folder: Path,
    *,
    seed: int,
    num_processes: int,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Write every clip's file; returns seconds by path. `report` gets a line per finished shard.

    Raises:
        UserError, OSError: as in the process where it happened (no such voice, disk full).
        RuntimeError: a process died.
    """
    shards = [
        Shard(clips[first : first + _SHARD_SIZE], first, seed, folder)
        for clips in (speech, scenes)
        for first in range(0, len(clips), _SHARD_SIZE)
    ]
    num_clips = len(speech) + len(scenes)
    seconds: dict[str, float] = {}
    running: dict[Connection, BaseProcess] = {}
    try:
        while shards or running:
            while shards and len(running) < num_processes:
                receiver, process = _start_process(shards.pop(0))
                running[receiver] = process
            for receiver in wait(list(running)):
                assert isinstance(receiver, Connection)
                seconds.update(_receive_result(receiver, running.pop(receiver)))
                report(f"{len(seconds)} of {num_clips} clips")
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    return seconds


def render_shard(shard: Shard, is_wanted: Callable[[], bool] = lambda: True) -> dict[str, float]:
    """Write the files of one shard; returns seconds by path. Needs a process of its own.

    `is_wanted` is asked before every clip; "no" ends the work (the parent is gone).
    """
    synthesizer: Synthesizer | None = None
    seconds: dict[str, float] = {}
    for number, clip in enumerate(shard.clips, start=shard.first):
        if not is_wanted():
            break
        if isinstance(clip, SpeechClip):
            synthesizer = synthesizer or Synthesizer(seed=shard.seed + shard.first)
            rng = np.random.default_rng([shard.seed, _SPEECH_STREAM, number])
            waveform = _render_utterance(clip, synthesizer, rng)
        else:
            rng = np.random.default_rng([shard.seed, _SCENE_STREAM, number])
            waveform = render_scene(clip.scene, rng)
        samples = np.round(waveform * 32767).astype(np.int16)
        soundfile.write(shard.folder / clip.path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        seconds[clip.path] = len(samples) / SAMPLE_RATE_HZ
    return seconds


def trim_silence(waveform: np.ndarray, margins_seconds: tuple[float, float]) -> np.ndarray:
    """Cut what is 45 dB below the peak at both ends, but keep a margin. (T,) -> (shorter,)."""
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max() * 10 ** (-45 / 20))
    before, after = (int(margin * SAMPLE_RATE_HZ) for margin in margins_seconds)
    return waveform[max(0, loud[0] - before) : loud[-1] + 1 + after]


def _start_process(shard: Shard) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(shard, sender, os.getpid()), daemon=True)
    process.start()
    sender.close()  # the process has its own: when it dies, reading ends
    return receiver, process


def _work(shard: Shard, sender: Connection, parent_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    try:
        result = render_shard(shard, is_wanted=lambda: os.getppid() == parent_id)
    except (UserError, OSError) as error:
        result = error
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        sender.send(result)


def _receive_result(receiver: Connection, process: BaseProcess) -> dict[str, float]:
    try:
        result = receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"a demo process died with exit code {process.exitcode}") from error
    finally:
        receiver.close()
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _render_utterance(
    clip: SpeechClip, synthesizer: Synthesizer, rng: np.random.Generator
) -> np.ndarray:
    waveform = synthesizer.synthesize(
        clip.text, clip.voice, words_per_minute=clip.words_per_minute, pitch=clip.pitch
    )
    waveform = trim_silence(waveform, tuple(rng.uniform(0.05, 0.1, 2)))
    level_db, snr_db = rng.uniform(-30, -18), rng.uniform(30, 50)
    waveform = waveform * (10 ** (level_db / 20) / np.sqrt(np.mean(waveform**2)))
    noise = rng.standard_normal(len(waveform)) * 10 ** ((level_db - snr_db) / 20)
    waveform = waveform + noise
    return waveform * min(1.0, 0.95 / np.abs(waveform).max())
