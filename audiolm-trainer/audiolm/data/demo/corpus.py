"""Build the demo corpus: speech to transcribe and sound scenes to describe.

In: `CorpusOptions` (a seed and counts) and a folder. Out, in that folder:

    audio/{speech,scenes}/*.wav    16 kHz, mono, 16 bit
    train_digits.json              speech of one digit
    train_words.json               speech of one and two words
    train_short.json               speech of two to four words
    train_speech.json              speech of two to seven words (the short ones too)
    train_scenes.json              sound scenes with their captions
    train_stage1.json              digits, words, short sentences and scenes of one event
    train_stage2.json              everything
    valid.json                     both tasks; sentences and scenes that training never sees
    test_asr.json, test_aac.json   the same, and voices that training never hears
    texts.txt                      every training text, one a line (for a tokenizer)
    corpus.json                    the options and counts; written last

A corpus is built in a folder beside its place and moved there when whole, so a folder with a
`corpus.json` is always complete. Equal options give equal files.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiolm.data.demo.plan import (
    CorpusOptions,
    SceneClip,
    SpeechClip,
    plan_scenes,
    plan_speech,
)
from audiolm.data.demo.rendering import render_clips
from audiolm.data.demo.speech import find_espeak
from audiolm.errors import UserError

MANIFEST_NAME = "corpus.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class CorpusSummary:
    """What `build_corpus` made or found."""

    folder: Path
    was_reused: bool
    num_clips: dict[str, int]  # by annotation file
    audio_seconds: float


def build_corpus(
    folder: str | Path,
    options: CorpusOptions,
    *,
    num_processes: int = 2,
    report: Callable[[str], None] = lambda line: None,
) -> CorpusSummary:
    """Make the corpus in `folder`, or reuse the one that is there if its options are the same.

    `num_processes` changes the speed only. `report` is given lines about the progress.

    Raises:
        UserError: `espeakng-loader` is missing, or the folder holds something else.
    """
    if num_processes < 1:
        raise UserError(f"num_processes is {num_processes}: it must be at least 1")
    folder = Path(folder).resolve()
    found = _find_corpus(folder, options)
    if found is not None:
        return found
    find_espeak()
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():  # of an interrupted run
        shutil.rmtree(partial)
    for name in ("speech", "scenes"):
        (partial / "audio" / name).mkdir(parents=True)
    speech, scenes = plan_speech(options), plan_scenes(options)
    seconds = render_clips(
        speech, scenes, partial, seed=options.seed, num_processes=num_processes, report=report
    )
    num_clips = _write_annotations(partial, speech, scenes, seconds)
    audio_seconds = round(math.fsum(seconds.values()), 1)  # whatever their order
    manifest = {
        "version": FORMAT_VERSION,
        "options": asdict(options),
        "num_clips": num_clips,
        "audio_seconds": audio_seconds,
    }
    _write_text(partial / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")
    os.replace(partial, folder)
    return CorpusSummary(folder, False, num_clips, audio_seconds)


def _find_corpus(folder: Path, options: CorpusOptions) -> CorpusSummary | None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{folder} exists and is not a demo corpus: name a new folder with -o")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"version": FORMAT_VERSION, **asdict(options)}
    present = {"version": manifest.get("version"), **manifest.get("options", {})}
    different = [key for key in wanted if present.get(key) != wanted[key]]
    if different:
        values = ", ".join(f"{key} {present.get(key)} (not {wanted[key]})" for key in different)
        raise UserError(
            f"{folder} holds a demo corpus made with {values}: "
            "delete it, name another folder with -o, or give the options it was made with"
        )
    return CorpusSummary(folder, True, manifest["num_clips"], manifest["audio_seconds"])


def _write_annotations(
    folder: Path,
    speech: Sequence[SpeechClip],
    scenes: Sequence[SceneClip],
    seconds: dict[str, float],
) -> dict[str, int]:
    """Write every annotation file and the texts; returns the number of clips by file."""
    by_part = {
        part: [clip for clip in speech if clip.split == "train" and clip.part == part]
        for part in ("digits", "words", "short", "full")
    }
    words = [*by_part["digits"], *by_part["words"]]
    sentences = [*by_part["short"], *by_part["full"]]
    spoken = {
        split: [clip for clip in speech if clip.split == split] for split in ("valid", "test")
    }
    sounding = {
        split: [clip for clip in scenes if clip.split == split]
        for split in ("train", "valid", "test")
    }
    single_events = [clip for clip in sounding["train"] if clip.scene.layout == "single"]
    files: dict[str, list[SpeechClip | SceneClip]] = {
        "train_digits.json": [*by_part["digits"]],
        "train_words.json": [*by_part["words"]],
        "train_short.json": [*by_part["short"]],
        "train_speech.json": [*sentences],
        "train_scenes.json": [*sounding["train"]],
        "train_stage1.json": [*words, *by_part["short"], *single_events],
        "train_stage2.json": [*words, *sentences, *sounding["train"]],
        "valid.json": [*spoken["valid"], *sounding["valid"]],
        "test_asr.json": [*spoken["test"]],
        "test_aac.json": [*sounding["test"]],
    }
    for name, clips in files.items():
        entries = [_describe(clip, seconds[clip.path]) for clip in clips]
        if not name.startswith("train"):
            for number, entry in enumerate(entries):
                entry["testset_id"] = f"test{number:04d}"
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        _write_text(folder / name, f'{{"annotation": [\n{lines}\n]}}\n')
    texts = [text for clip in files["train_stage2.json"] for text in clip.texts]
    _write_text(folder / "texts.txt", "\n".join(texts) + "\n")
    return {name: len(clips) for name, clips in files.items()}


def _describe(clip: SpeechClip | SceneClip, seconds: float) -> dict[str, Any]:
    is_speech = isinstance(clip, SpeechClip)
    return {
        "path": clip.path,
        "text": clip.text if is_speech else clip.texts,
        "task": "asr" if is_speech else "audiocaption_v2",
        "Q": "",
        "duration": round(seconds, 3),
    }


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
