"""Scores of answers, with the code of every evaluation: at the end, from a file, or in training.

In: a task (or kind), hypotheses and references as they are. Out: figures by name, each with its
95 % interval over clips. What every name means: `docs/evaluation.md`.
"""

from collections.abc import Sequence

from audiolm.evaluation.aac import measure_caption_texts
from audiolm.evaluation.answers import measure_answers, measure_labels
from audiolm.evaluation.asr import check_pairs
from audiolm.evaluation.intervals import Interval, Measure, bootstrap_intervals
from audiolm.evaluation.tasks import (
    ANSWERS,
    CAPTIONS,
    CHARACTERS,
    LABELS,
    PHONES,
    TRANSCRIPTS,
    ScoreKind,
    need_score_kind,
)
from audiolm.evaluation.transcripts import (
    measure_characters,
    measure_phones,
    measure_transcripts,
)
from audiolm.evaluation.translation import choose_tokenizer, measure_translations

_MEASURES_OF_ONE_REFERENCE = {
    TRANSCRIPTS.name: measure_transcripts,
    CHARACTERS.name: measure_characters,
    PHONES.name: measure_phones,
}
_MEASURES_OF_REFERENCES = {
    CAPTIONS.name: measure_caption_texts,
    LABELS.name: measure_labels,
    ANSWERS.name: measure_answers,
}


def score_answers(
    task: str,
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every figure of a task that needs neither Java nor a download; the primary one is first.

    WER and its like for `asr` (`wer` is the reference scorer's), CIDEr-D and its like for
    captions, and so on: see `tasks.find_score_kind`. Rates are fractions.

    Args:
        task: a task of the prompt files that has a score.
        hypotheses: one answer per clip.
        references: one text or a list of texts per clip, in the same order. Of several, captions
            and answers use all, transcripts the first.
        seed: of the intervals.

    Raises:
        UserError: the task has no score, there is no clip, or the texts cannot be scored (captions
            need two clips and a word in the references).
    """
    check_pairs(hypotheses, references)
    kind = need_score_kind(task)
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    return bootstrap_intervals(build_measures(kind, task, hypotheses, lists), seed=seed)


def build_measures(
    kind: ScoreKind, task: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Measure]:
    """Per-clip numbers of every figure of `kind`; `task` gives the language of a translation.

    Raises:
        UserError: captions that cannot be scored.
    """
    if kind.name in _MEASURES_OF_ONE_REFERENCE:
        first = [texts[0] for texts in references]
        return _MEASURES_OF_ONE_REFERENCE[kind.name](hypotheses, first)
    if kind.name in _MEASURES_OF_REFERENCES:
        return _MEASURES_OF_REFERENCES[kind.name](hypotheses, references)
    return measure_translations(hypotheses, references, choose_tokenizer(task))
