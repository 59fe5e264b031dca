"""Is one system better than another? Differences on the same clips, from saved predictions.

In: predictions files or evaluations' folders; the first is what the others are compared with. Out:
for each figure the difference with its paired interval and p-value, wins and losses, and the clips
that changed most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.intervals import LEVEL, Difference, compare_paired
from audiolm.evaluation.predictions import Prediction, find_predictions, load_predictions
from audiolm.evaluation.results import choose_groups, measure_clips
from audiolm.evaluation.run_folder import CARD_NAME
from audiolm.evaluation.wording import NAMES, PERCENTAGES, format_value
from audiolm.json_file import load_json

MAX_CHANGED = 10
MAX_SHOWN_IDS = 3


@dataclass(frozen=True)
class ChangedClip:
    """A clip and its figure in both systems."""

    id: str
    reference: str
    figure_a: float
    figure_b: float
    text_a: str
    text_b: str


@dataclass(frozen=True)
class Comparison:
    """One figure of B against A, on one group of clips.

    `wins` are the clips on which B is better, by the figure of the clip alone.
    """

    group: str
    name: str
    value_a: float
    value_b: float
    difference: Difference
    wins: int
    losses: int
    num_clips: int
    changed: list[ChangedClip]


def compare_systems(path_a: str | Path, path_b: str | Path, *, seed: int = 0) -> list[Comparison]:
    """Every figure of every group that can be computed here, B against A; of the first figure of a
    group also what changed.

    Raises:
        UserError: no predictions there, or predictions of different clips.
    """
    clips_a, clips_b = (load_predictions(find_predictions(path)) for path in (path_a, path_b))
    clips_b = _match(path_a, clips_a, path_b, clips_b)
    mode = _find_mode(path_a)
    groups: dict[Any, list[int]] = {}
    for position, group in enumerate(choose_groups(mode, [clip.task for clip in clips_a])):
        if group is not None:
            groups.setdefault(group, []).append(position)
    if not groups:
        raise UserError(f"{path_a}: no clip has a task with a score")
    found = []
    for (name, kind), positions in groups.items():
        pair = [[clips[position] for position in positions] for clips in (clips_a, clips_b)]
        references = [clip.references for clip in pair[0]]
        if not all(references):
            raise UserError(
                f"{path_a}: clips without reference texts cannot be compared; --rescore it with "
                "--annotation JSON first"
            )
        measures = [measure_clips(kind, clips, with_facts=False)[0] for clips in pair]
        if measures[0].keys() != measures[1].keys():
            raise UserError(
                "the two systems have different figures: a metric failed on one of them"
            )
        primary = next(iter(measures[0]))
        for figure, measure_a in measures[0].items():
            measure_b = measures[1][figure]
            is_error = kind.is_error and figure not in ("contains", "token_f1")
            per_clip = measure_a.formula(measure_a.rows), measure_b.formula(measure_b.rows)
            gains = (per_clip[0] - per_clip[1]) * (1 if is_error else -1)
            is_primary = figure == primary
            found.append(
                Comparison(
                    name,
                    figure,
                    measure_a.value,
                    measure_b.value,
                    compare_paired(measure_a, measure_b, seed=seed),
                    wins=int((gains > 0).sum()),
                    losses=int((gains < 0).sum()),
                    num_clips=len(positions),
                    changed=_find_changed(pair, per_clip, gains) if is_primary else [],
                )
            )
    return found


def describe_comparison(comparisons: Sequence[Comparison], name_a: str, name_b: str) -> list[str]:
    """Lines for the screen."""
    lines = [f"A: {name_a}", f"B: {name_b}"]
    for comparison in comparisons:
        name, difference = comparison.name, comparison.difference
        value, low, high = (
            _format_difference(name, number)
            for number in (difference.value, difference.low, difference.high)
        )
        lines.append(
            f"[{comparison.group}] {NAMES[name]}: A {format_value(name, comparison.value_a)}, "
            f"B {format_value(name, comparison.value_b)}, B - A {value} "
            f"({LEVEL:.0%} interval {low} to {high}, p = {difference.p_value:.3g}); of "
            f"{comparison.num_clips} clips B is better on {comparison.wins}, worse on "
            f"{comparison.losses}"
        )
        if comparison.changed:
            lines.append("changed most:")
        for clip in comparison.changed:
            figures = [format_value(name, f, 1 if name in PERCENTAGES else 3)
                       for f in (clip.figure_a, clip.figure_b)]  # fmt: skip
            lines += [
                f"  {clip.id}: {figures[0]} -> {figures[1]}",
                f"    reference: {clip.reference}",
                f"    A: {clip.text_a}",
                f"    B: {clip.text_b}",
            ]
    return lines


def describe_as_values(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The same as plain values, for a file."""
    return [asdict(comparison) for comparison in comparisons]


def _match(
    path_a: str | Path, clips_a: list[Prediction], path_b: str | Path, clips_b: list[Prediction]
) -> list[Prediction]:
    """`clips_b` in the order of `clips_a`.

    Raises:
        UserError: the clips differ, or their references do.
    """
    by_key_a, by_key_b = ({_key(c): c for c in clips} for clips in (clips_a, clips_b))
    only_a = [clip.id for key, clip in by_key_a.items() if key not in by_key_b]
    only_b = [clip.id for key, clip in by_key_b.items() if key not in by_key_a]
    if only_a or only_b:
        told = [
            f"{len(ids)} only in {path} ({', '.join(ids[:MAX_SHOWN_IDS])}"
            f"{', ...' if len(ids) > MAX_SHOWN_IDS else ''})"
            for path, ids in ((path_a, only_a), (path_b, only_b))
            if ids
        ]
        raise UserError(f"the clips differ: {'; '.join(told)}; compare predictions of one test set")
    matched = [by_key_b[_key(clip)] for clip in clips_a]
    for a, b in zip(clips_a, matched, strict=True):
        if a.references != b.references:
            raise UserError(
                f"the references of {a.id} differ: {a.references} in {path_a}, {b.references} in "
                f"{path_b}; --rescore both with the same --annotation first"
            )
    return matched


def _key(clip: Prediction) -> tuple[int, str, str]:
    return clip.index, clip.id, clip.task


def _find_mode(path: str | Path) -> str:
    card_path = find_predictions(path).parent / CARD_NAME
    mode = load_json(card_path, "evaluation").get("mode", "") if card_path.is_file() else ""
    return mode.replace("submission_", "valid_")


def _find_changed(
    pair: Sequence[Sequence[Prediction]], per_clip: tuple[np.ndarray, np.ndarray], gains: np.ndarray
) -> list[ChangedClip]:
    order = np.argsort(-np.abs(gains), kind="stable")[:MAX_CHANGED]
    return [
        ChangedClip(
            pair[0][i].id,
            pair[0][i].references[0],
            float(per_clip[0][i]),
            float(per_clip[1][i]),
            pair[0][i].text,
            pair[1][i].text,
        )
        for i in order.tolist()
        if gains[i] != 0
    ]


def _format_difference(name: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if name in PERCENTAGES else f"{value:+.4f}"
