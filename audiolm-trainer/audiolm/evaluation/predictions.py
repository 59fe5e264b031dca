"""Decode a data set, and keep every answer from the moment it is made.

In: the model, batches of `data.batches.collate`, and one templated prompt per clip. Out: a
`Prediction` per clip; `PredictionFile` puts each batch of them on disk before the next is decoded.
"""

import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.data.annotations import Clip
from audiolm.data.batches import AudioTally
from audiolm.data.dataset import SkippedClip
from audiolm.models.device import move_to
from audiolm.models.salmonn import SALMONN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What became of one clip: a line of the JSONL file.

    Attributes:
        index: the clip's position in the annotation, from 0.
        id: its path as written there.
        testset_id: its submission id, if it has one.
        task: its task.
        prompt: the whole prompt, template included.
        text: the answer, special tokens removed; empty for a skipped clip.
        audio_seconds: audio the model was given: at least 1, at most 30.
        seconds: wall time of its batch divided by the clips in it.
        skipped: why the clip was left out; None when it was decoded.
    """

    index: int
    id: str
    testset_id: str | None
    task: str
    prompt: str
    text: str
    audio_seconds: float = 0.0
    seconds: float = 0.0
    skipped: str | None = None


def predict(
    model: SALMONN,
    batches: Iterable[dict[str, Any]],
    clips: Sequence[Clip],
    prompts: Sequence[str],
    generate_cfg: Any,
    device: torch.device,
    tally: AudioTally,
) -> Iterator[list[Prediction]]:
    """Decode batch after batch; each yields a prediction for every clip of it, skipped ones too.

    Args:
        model: in eval mode, on `device`.
        batches: in any order of clips.
        clips: all clips; a sample's `index` is its position here.
        prompts: one templated prompt per clip.
        generate_cfg: the `generate` section.
        device: where the batches go.
        tally: counts what was decoded, cut and skipped.
    """
    for samples in batches:
        tally.add(samples)
        predictions = _decode(model, samples, clips, prompts, generate_cfg, device)
        skipped: list[SkippedClip] = samples["skipped"]
        for clip in skipped:
            reason = clip.reason
            predictions.append(_describe(clips[clip.index], prompts[clip.index], skipped=reason))
        yield predictions


def _decode(
    model: SALMONN,
    samples: dict[str, Any],
    clips: Sequence[Clip],
    prompts: Sequence[str],
    generate_cfg: Any,
    device: torch.device,
) -> list[Prediction]:
    indices: list[int] = samples["index"]
    if not indices:
        return []  # every clip of the batch was skipped
    started = time.perf_counter()
    with torch.no_grad():
        texts = model.generate(
            move_to(samples, device), generate_cfg, prompts=[prompts[index] for index in indices]
        )
    seconds = (time.perf_counter() - started) / len(indices)
    num_samples = (~samples["padding_mask"]).sum(1).tolist()
    return [
        _describe(
            clips[index],
            prompts[index],
            text=text,
            audio_seconds=round(length / SAMPLE_RATE_HZ, 3),
            seconds=round(seconds, 4),
        )
        for index, text, length in zip(indices, texts, num_samples, strict=True)
    ]


def _describe(clip: Clip, prompt: str, *, text: str = "", **values: Any) -> Prediction:
    return Prediction(clip.index, clip.path, clip.testset_id, clip.task, prompt, text, **values)


class PredictionFile:
    """The JSONL file of a run, beside the CSV to come and with the same stem.

    Nothing exists before the first `append`. The file claims its name: of two runs that start
    together, the second gets a number (`..._2`).

    Args:
        csv_path: where the CSV should go.
        num_clips: how many predictions there will be, for the message of a run that stops early.
    """

    def __init__(self, csv_path: Path, num_clips: int) -> None:
        self.csv_path = csv_path
        self._num_clips = num_clips
        self._num_written = 0
        self._file: TextIO | None = None

    @property
    def path(self) -> Path:
        """The JSONL file; final after the first `append`."""
        return self.csv_path.with_suffix(".jsonl")

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions and have them on disk."""
        if self._file is None:
            self._file = self._claim()
        for prediction in predictions:
            self._file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
            self._num_written += 1
        self._file.flush()
        os.fsync(self._file.fileno())

    def _claim(self) -> TextIO:
        wanted = self.csv_path
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            if number > 1:
                self.csv_path = wanted.with_stem(f"{wanted.stem}_{number}")
            try:
                # A lone surrogate, which no UTF-8 file can hold, is written as its escape.
                return self.path.open("x", encoding="utf-8", errors="backslashreplace")
            except FileExistsError:
                continue
        raise AssertionError("itertools.count ended")

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        self._file.close()
        if error is not None:
            logger.warning(
                "stopped early: %d of %d predictions are in %s",
                self._num_written,
                self._num_clips,
                self.path,
            )
