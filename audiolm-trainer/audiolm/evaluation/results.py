"""The numbers of an evaluation, out of its predictions.

In: `Prediction`s with references, and how each is scored. Out: a `GroupResult` per group of clips
that are scored alike. No model, no audio: what was saved is enough. Every number is defined in
`docs/evaluation.md`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.aac import measure_program_metrics, tokenize_captions
from audiolm.evaluation.alignment import align_texts, format_alignment
from audiolm.evaluation.caption_counts import count_ngrams, measure_captions
from audiolm.evaluation.caption_facts import describe_captions, measure_untokenised
from audiolm.evaluation.intervals import Interval, Measure, bootstrap_intervals, mean_of
from audiolm.evaluation.predictions import Prediction
from audiolm.evaluation.scores import build_measures
from audiolm.evaluation.tasks import CAPTIONS, CHARACTERS, TRANSCRIPTS, ScoreKind, find_score_kind

# Audio lengths at which bins of clips end, in seconds; the last bin has no end.
BIN_ENDS = (5.0, 10.0, 15.0, 20.0)
NUM_WORST = 20
ENDLESS = ("runaway", "looping")  # stop reasons of the guard
EDITS = ("substitutions", "deletions", "insertions", "num_words")


@dataclass(frozen=True)
class LengthBin:
    """Clips of similar length, and their primary figure; `end_seconds` is None in the last."""

    start_seconds: float
    end_seconds: float | None
    figure: Interval


@dataclass(frozen=True)
class WorstClip:
    """A clip with many errors, reference over answer: errors in capitals, gaps as `*`."""

    id: str
    num_errors: int
    reference: str
    answer: str


@dataclass
class GroupResult:
    """Clips that are scored alike.

    Attributes:
        name: what they are called: a task, or `asr` and `aac` after the mode.
        kind: how they are scored.
        positions: of its clips, in the list of predictions.
        scores: every figure with its interval; the primary one first.
        measures: the same, clip by clip.
        lengths: (N, 2) words of the first reference and of the answer, between spaces.
        counts: whole numbers: edits and words, skipped and truncated clips, stop reasons.
        bins: the primary figure by length of audio.
        worst: the clips with the most errors, of tasks that count errors.
        facts: what has no interval: vocabulary, floor and ceiling of captions.
        notes: what could not be computed, and why.
    """

    name: str
    kind: ScoreKind
    positions: list[int]
    scores: dict[str, Interval]
    measures: dict[str, Measure]
    lengths: np.ndarray
    counts: dict[str, int]
    bins: list[LengthBin] = field(default_factory=list)
    worst: list[WorstClip] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def primary(self) -> str:
        """The name of the figure that comes first: SPIDEr for captions where it is computed."""
        return next(iter(self.scores), self.kind.primary)


def choose_groups(mode: str, tasks: Sequence[str]) -> list[tuple[str, ScoreKind] | None]:
    """The group of each clip, by its task; None: it is not scored.

    `valid_asr` scores every entry as a transcript and `valid_aac` as a caption, as the reference
    does; by characters where the task's language asks for it. Other modes go by the task.
    """
    if mode == "valid_aac":
        return [("aac", CAPTIONS)] * len(tasks)
    groups: list[tuple[str, ScoreKind] | None] = []
    for task in tasks:
        kind = find_score_kind(task)
        if mode == "valid_asr":
            by_character = kind is CHARACTERS
            groups.append((task, CHARACTERS) if by_character else ("asr", TRANSCRIPTS))
        else:
            groups.append(None if kind is None else (task, kind))
    return groups


def score_predictions(
    predictions: Sequence[Prediction], mode: str, *, seed: int = 0
) -> tuple[list[GroupResult], list[str]]:
    """Score every group, in the order of its first clip.

    Returns:
        The results, and a line per group that could not be scored.
    """
    groups: dict[tuple[str, ScoreKind], list[int]] = {}
    unscored: dict[str, None] = {}
    chosen = choose_groups(mode, [prediction.task for prediction in predictions])
    for position, group in enumerate(chosen):
        if group is None:
            unscored[predictions[position].task] = None
        else:
            groups.setdefault(group, []).append(position)
    results, notes = [], []
    if unscored:
        notes.append(f"decoded but not scored: tasks {', '.join(unscored)}")
    for (name, kind), positions in groups.items():
        try:
            results.append(_score_group(name, kind, positions, predictions, seed))
        except UserError as error:  # the predictions are there; only this score cannot be
            notes.append(f"{name}: {kind.name} are not scored: {error}")
    return results, notes


def _score_group(
    name: str,
    kind: ScoreKind,
    positions: list[int],
    predictions: Sequence[Prediction],
    seed: int,
) -> GroupResult:
    clips = [predictions[position] for position in positions]
    without = [clip.id for clip in clips if not clip.references]
    if without:
        raise UserError(
            f"{len(without)} of {len(clips)} clips have no reference text; first: {without[0]}; "
            "give --annotation JSON"
        )
    measures, notes, facts = measure_clips(kind, clips)
    result = GroupResult(
        name,
        kind,
        positions,
        bootstrap_intervals(measures, seed=seed),
        measures,
        np.array([[len(clip.references[0].split()), len(clip.text.split())] for clip in clips]),
        _count(clips),
        facts=facts,
        notes=notes,
    )
    if kind is TRANSCRIPTS:
        edits = measures["wer"].rows.sum(axis=0)
        result.counts.update({key: int(n) for key, n in zip(EDITS, edits, strict=True)})
    result.bins = _split_by_length(clips, measures[result.primary], seed)
    if kind.counts_edits:
        result.worst = _find_worst(kind, clips, measures[result.primary])
    return result


def measure_clips(
    kind: ScoreKind, clips: Sequence[Prediction], *, with_facts: bool = True
) -> tuple[dict[str, Measure], list[str], dict[str, Any]]:
    """Every figure of clips with references, clip by clip, that can be computed on this machine.

    Returns:
        The figures, why others are missing, and facts that have no interval (if wanted).

    Raises:
        UserError: captions that cannot be scored.
    """
    hypotheses = [clip.text for clip in clips]
    references = [clip.references for clip in clips]
    if kind is not CAPTIONS:
        measures = build_measures(kind, clips[0].task, hypotheses, references)
        if kind.counts_edits:
            is_endless = np.array([clip.stop_reason in ENDLESS for clip in clips])
            measures["runaway_share"] = mean_of(is_endless)
        return measures, [], {}
    tokens = tokenize_captions(hypotheses, references)
    counts = count_ngrams(tokens)
    measures = measure_captions(tokens, counts)
    extra, notes = measure_program_metrics(tokens, measures["cider_d"])
    measures = {**_first("spider", extra), **measures, **extra}
    facts = describe_captions(tokens, counts, references) if with_facts else {}
    del counts  # much of the memory, of which the next line needs as much again
    measures["cider_d_untokenised"] = measure_untokenised(hypotheses, references)
    return measures, notes, facts


def _first(name: str, measures: dict[str, Measure]) -> dict[str, Measure]:
    return {name: measures[name]} if name in measures else {}


def _count(clips: Sequence[Prediction]) -> dict[str, int]:
    reasons = Counter(clip.stop_reason for clip in clips if clip.stop_reason)
    return {
        "num_clips": len(clips),
        "num_skipped": sum(clip.skipped is not None for clip in clips),
        "num_truncated": sum(clip.was_truncated for clip in clips),
        "num_chunked": sum(clip.num_chunks > 1 for clip in clips),
        "num_empty": sum(not clip.text.strip() for clip in clips),
        "num_runaway": reasons["runaway"],
        "num_looping": reasons["looping"],
        "num_cut_at_max_new_tokens": reasons["max_new_tokens"],
    }


def _find_worst(kind: ScoreKind, clips: Sequence[Prediction], measure: Measure) -> list[WorstClip]:
    errors = measure.rows[:, :3].sum(axis=1)
    order = np.argsort(-errors, kind="stable")[:NUM_WORST].tolist()
    return [
        WorstClip(
            clips[i].id,
            int(errors[i]),
            *format_alignment(align_texts(kind, clips[i].text, clips[i].references)),
        )
        for i in order
        if errors[i]
    ]


def _split_by_length(clips: Sequence[Prediction], measure: Measure, seed: int) -> list[LengthBin]:
    seconds = np.array([clip.audio_seconds for clip in clips])
    bins = []
    for start, end in zip((0.0, *BIN_ENDS), (*BIN_ENDS, None), strict=True):
        inside = (seconds >= start) & (seconds < (np.inf if end is None else end))
        if inside.any():
            figure = bootstrap_intervals({"": measure.select(inside)}, seed=seed)[""]
            bins.append(LengthBin(start, end, figure))
    return bins
