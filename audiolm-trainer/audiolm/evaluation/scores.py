"""Scores of a decoded test set, as lines for the screen and as numbers for a file.

In: one hypothesis per clip and each clip's reference texts, as they are. Out: a `ScoreReport`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm.errors import UserError
from audiolm.evaluation.aac import compute_caption_scores
from audiolm.evaluation.asr import compute_wer
from audiolm.evaluation.metric_requirements import check_metrics_available


@dataclass(frozen=True)
class ScoreReport:
    """Lines to show, and the numbers in them by name (`wer` is a fraction)."""

    lines: list[str]
    values: dict[str, float]


def score_transcripts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> ScoreReport:
    """Word error rate with the `reference` scorer; of several references the first one counts."""
    result = compute_wer(hypotheses, [texts[0] for texts in references], scorer="reference")
    errors = (
        f"{result.substitutions} substitutions, {result.deletions} deletions, "
        f"{result.insertions} insertions; {result.num_words} words in {len(hypotheses)} clips"
    )
    values = {
        "wer": result.wer,
        "substitutions": result.substitutions,
        "deletions": result.deletions,
        "insertions": result.insertions,
        "num_words": result.num_words,
    }
    return ScoreReport([f"WER: {result.wer:.4%}", errors], values)


def score_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> ScoreReport:
    """SPIDEr with its two halves where Java and the downloads are there, else CIDEr-D alone.

    Without them a line says what is missing and which command gets it.

    Raises:
        UserError: CIDEr-D is not defined for these texts (see `check_captions_scorable`).
    """
    try:
        check_metrics_available(("spider",))
        values = compute_caption_scores(hypotheses, references, ("spider", "cider_d", "spice"))
    except UserError as error:
        values = compute_caption_scores(hypotheses, references, ("cider_d",))
        lines = [f"CIDEr-D: {values['cider_d']:.4f}", f"SPIDEr is not computed: {error}"]
        return ScoreReport(lines, values)
    halves = f"CIDEr-D: {values['cider_d']:.4f}, SPICE: {values['spice']:.4f}"
    return ScoreReport([f"SPIDEr: {values['spider']:.4f}", halves], values)


def check_captions_scorable(references: Sequence[Sequence[str]]) -> None:
    """Make sure, before any decoding, that captions of these clips can be scored.

    Raises:
        UserError: one clip only, or no words in any reference.
    """
    compute_caption_scores([""] * len(references), references, ("cider_d",))
