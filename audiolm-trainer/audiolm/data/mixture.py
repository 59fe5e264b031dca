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

import numpy as np

from audiolm.data.annotations import Clip, load_annotation
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
    clips: list[Clip] = []
    members: dict[tuple[str, float, str], list[int]] = {}  # (file, weight, task) -> positions
    for path, weight in corpora:
        for clip in load_annotation(path, require_text=True):
            members.setdefault((str(path), weight, clip.task), []).append(len(clips))
            several = len(corpora) > 1
            clips.append(dataclasses.replace(clip, source=str(path)) if several else clip)
    factors = _compute_task_factors(members, task_temperature)

    parts: list[MixturePart] = []
    for number, ((path, weight, task), positions) in enumerate(members.items()):
        order = np.random.default_rng((seed, number, 1)).permutation(positions)
        part = MixturePart(path, task, order, len(clips), weight * factors[task])
        clips += [clips[position] for position in order] * part.num_copies
        parts.append(part)
    if sum(math.floor(part.clips_per_epoch) for part in parts) < 1:
        listed = ", ".join(f"{path} (weight {weight:g})" for path, weight in corpora)
        raise UserError(
            f"datasets.train_ann_path: with these weights an epoch may hold no clip: {listed}; "
            "raise a weight"
        )
    return Mixture(clips, parts)


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
    members: Mapping[tuple[str, float, str], Sequence[int]], temperature: float
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
