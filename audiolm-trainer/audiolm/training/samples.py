"""A few validation clips with the model's answers and their sound, for the run's report."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.training.data import ClipBatches, pick_evenly

NUM_SAMPLES = 12
FOLDER = "samples"
FILE_NAME = "samples.json"


def write_samples(
    folder: Path, answers: Sequence[Mapping[str, Any]], data: ClipBatches, step: int
) -> None:
    """Write `samples.json` about some answers, the same ones each time and of each task equally
    many, and once each clip's sound as FLAC."""
    (folder / FOLDER).mkdir(exist_ok=True)
    picked = {clip.index for clip in pick_evenly(data.clips, NUM_SAMPLES)}
    rows = []
    for answer in answers:
        if answer["index"] not in picked:
            continue
        audio = f"{FOLDER}/clip_{answer['index']}.flac"
        if not (folder / audio).exists():
            waveform = data.load_waveform(answer["index"])
            soundfile.write(folder / audio, waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
        kept = ("id", "task", "prompt", "references", "hypothesis")
        rows.append({**{key: answer[key] for key in kept}, "step": step, "audio": audio})
    path = folder / FILE_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    os.replace(temporary, path)
