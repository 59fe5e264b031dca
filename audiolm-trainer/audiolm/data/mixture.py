"""Several annotations as one training set: how often the clips of each come in an epoch.

In: annotation files with weights, a task temperature, a seed. Out: the clips, and for each epoch
the positions of those that come in it. Nothing is drawn with replacement: over the epochs every
clip of a part comes equally often, give or take one.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from audiolm.data.annotations import load_annotation
from audiolm.data.clips import (
    Clip,
    IndexedClips,
    collect_shard_ends,
    collect_tasks,
    group_by_task,
    load_seconds,
)
from audiolm.errors import UserError


@dataclass(frozen=True)
class MixturePart:
    """The clips of one task in one annotation.

    Attributes:
        source: annotation file.
        task: their task.
        order: (N,) their positions, shuffled; epochs go round in it.
        first_copy: position of the first further copy; the copies of all clips, in the same
            order, follow one another from there.
        weight: how often each clip comes per epoch, on average.
    """

    source: str
    task: str
    order: np.ndarray
    first_copy: int
    weight: float

    @property
    def num_copies(self) -> int:
        """Further positions of each clip: it may come this much more than once in an epoch."""
        return max(math.ceil(self.weight) - 1, 0)

    @property
    def clips_per_epoch(self) -> float:
        """Clips in an epoch, on average."""
        return len(self.order) * self.weight

    def positions(self, epoch: int) -> np.ndarray:
        """Positions of the clips that come in an epoch: the next ones of the endless round."""
        start, end = (math.floor(e * self.clips_per_epoch + 0.5) for e in (epoch, epoch + 1))
        copies, _ = np.divmod(np.arange(end - start), len(self.order))
        places = np.arange(start, end) % len(self.order)
        further = self.first_copy + (copies - 1) * len(self.order) + places
        return np.where(copies == 0, self.order[places], further)


class JoinedClips(IndexedClips):
    """The clips of several annotations one after the other, and then further copies of some.

    Args:
        pieces: annotation file and its clips.
        copies: (K,) positions of the clips that come again after all the others.
    """

    def __init__(self, pieces: Sequence[tuple[str, Sequence[Clip]]], copies: np.ndarray) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *(len(clips) for _, clips in pieces)])
        self._copies = copies
        tasks = [collect_tasks(clips) for _, clips in pieces]
        self.tasks = tuple(sorted(set().union(*tasks)))
        self.has_all_texts = True  # as training requires
        self.shard_ends = {}
        for _, clips in pieces:
            for shard, end in collect_shard_ends(clips).items():
                self.shard_ends[shard] = max(end, self.shard_ends.get(shard, 0))

    def __len__(self) -> int:
        return int(self._starts[-1]) + len(self._copies)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position >= self._starts[-1]:
            position = int(self._copies[position - self._starts[-1]])
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        source, clips = self._pieces[number]
        clip = clips[position - int(self._starts[number])]
        return dataclasses.replace(clip, source=source) if len(self._pieces) > 1 else clip

    def load_seconds(self) -> np.ndarray:
        """(N,) floats: annotated length of each clip, NaN where there is none."""
        seconds = np.concatenate([load_seconds(clips) for _, clips in self._pieces])
        return np.concatenate([seconds, seconds[self._copies]])

    def load_task_numbers(self) -> np.ndarray:
        """(N,) integers: position in `tasks` of each clip's task."""
        numbers = np.zeros(int(self._starts[-1]), dtype=np.int64)
        for start, (_, clips) in zip(self._starts, self._pieces, strict=False):
            for task, positions in group_by_task(clips).items():
                numbers[start + positions] = self.tasks.index(task)
        return np.concatenate([numbers, numbers[self._copies]])


class Mixture:
    """Clips of all parts, and which of them come when. Build it with `load_mixture`.

    Attributes:
        clips: all clips, file after file in the files' order, and then further copies of those
            that may come more than once in an epoch. A position in this list stands for one
            appearance, so a clip that comes twice has two draws of prompt and augmentation.
        parts: one for each annotation and task.
    """

    def __init__(self, clips: Sequence[Clip], parts: Sequence[MixturePart]) -> None:
        self.clips = clips
        self.parts = parts

    def positions(self, epoch: int) -> np.ndarray:
        """Positions in `clips` of what comes in an epoch, rising; each at most once."""
        return np.sort(np.concatenate([part.positions(epoch) for part in self.parts]))


def load_mixture(
    corpora: Sequence[tuple[str, float]], *, seed: int, task_temperature: float = 1.0
) -> Mixture:
    """Read annotations for training and plan how often their clips come.

    Args:
        corpora: annotation file and weight of each: how often its clips come per epoch, on
            average. 1: exactly once; 2: twice; 0.5: every other epoch.
        seed: of the rotation.
        task_temperature: T. Tasks get shares of an epoch in proportion to n ** (1 / T), where n is
            their number of clips by the weights; the number of all clips is kept. 1: as they are;
            above 1 evens them out.

    Raises:
        UserError: an annotation is wrong or listed twice; or an epoch would be empty.
    """
    _check_listed_once([path for path, _ in corpora])
    pieces: list[tuple[str, Sequence[Clip]]] = []
    members: dict[tuple[str, float, str], np.ndarray] = {}  # (file, weight, task) -> positions
    num_clips = 0
    for path, weight in corpora:
        clips = load_annotation(path, require_text=True)
        pieces.append((str(path), clips))
        for task, positions in group_by_task(clips).items():
            members[str(path), weight, task] = num_clips + positions
        num_clips += len(clips)
    factors = _compute_task_factors(members, task_temperature)

    parts: list[MixturePart] = []
    copies = [np.zeros(0, dtype=np.int64)]
    for number, ((path, weight, task), positions) in enumerate(members.items()):
        order = np.random.default_rng((seed, number, 1)).permutation(positions)
        part = MixturePart(path, task, order, num_clips, weight * factors[task])
        copies.append(np.tile(order, part.num_copies))
        num_clips += len(copies[-1])
        parts.append(part)
    if sum(math.floor(part.clips_per_epoch) for part in parts) < 1:
        listed = ", ".join(f"{path} (weight {weight:g})" for path, weight in corpora)
        raise UserError(
            f"datasets.train_ann_path: with these weights an epoch may hold no clip: {listed}; "
            "raise a weight"
        )
    return Mixture(JoinedClips(pieces, np.concatenate(copies)), parts)


def describe_mixture(mixture: Mixture) -> list[str]:
    """A line per annotation: `a.json: 60 clips, 120 per epoch (75.0 %): asr 100, QA 20`."""
    total = sum(part.clips_per_epoch for part in mixture.parts)
    lines = []
    for source in dict.fromkeys(part.source for part in mixture.parts):
        parts = [part for part in mixture.parts if part.source == source]
        num_clips = sum(len(part.order) for part in parts)
        per_epoch = sum(part.clips_per_epoch for part in parts)
        tasks = ", ".join(f"{part.task} {part.clips_per_epoch:.0f}" for part in parts)
        share = 100 * per_epoch / total
        lines.append(
            f"{source}: {num_clips} clips, {per_epoch:.0f} per epoch ({share:.1f} %): {tasks}"
        )
    return lines


def _check_listed_once(paths: Sequence[str]) -> None:
    counts = Counter(Path(path).resolve() for path in paths)
    for path, count in counts.items():
        if count > 1:
            raise UserError(
                f"datasets.train_ann_path lists {path} {count} times; list it once, with "
                f"weight: {count}"
            )


def _compute_task_factors(
    members: Mapping[tuple[str, float, str], np.ndarray], temperature: float
) -> dict[str, float]:
    """By how much each task's clips come more often than by their weights alone."""
    counts: dict[str, float] = {}
    for (_, weight, task), positions in members.items():
        counts[task] = counts.get(task, 0.0) + weight * len(positions)
    if temperature == 1.0:
        return dict.fromkeys(counts, 1.0)
    total = sum(counts.values())
    wanted = {task: (count / total) ** (1 / temperature) for task, count in counts.items()}
    scale = total / sum(wanted.values())
    return {task: scale * wanted[task] / counts[task] for task in counts}
