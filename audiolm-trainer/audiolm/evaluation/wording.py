"""Names and formats of the numbers: how they read on the screen and in reports.

In: figures by their names in `result.json`. Out: text.
"""

from audiolm.evaluation.intervals import LEVEL, Interval
from audiolm.evaluation.results import GroupResult
from audiolm.evaluation.tasks import CAPTIONS, TRANSCRIPTS

NAMES = {
    "wer": "WER",
    "wer_open_asr": "WER (open_asr)",
    "cer": "CER",
    "phone_error_rate": "phone error rate",
    "sentence_error_rate": "sentence error rate",
    "empty_share": "empty answers",
    "runaway_share": "runaway answers",
    "cider_d": "CIDEr-D",
    "cider_d_untokenised": "CIDEr-D, untokenised (the organiser's)",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "spice": "SPICE",
    "spider": "SPIDEr",
    "spider_fl": "SPIDEr-FL",
    "fense": "FENSE",
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "contains": "contains the answer",
    "token_f1": "token F1",
    "bleu": "BLEU (sacrebleu)",
}
PERCENTAGES = frozenset(
    """wer wer_open_asr cer phone_error_rate sentence_error_rate empty_share runaway_share
    accuracy exact_match contains token_f1""".split()
)


def format_value(name: str, value: float, digits: int = 4) -> str:
    """A figure with its unit: rates in per cent, others as they are."""
    return f"{value:.{digits}%}" if name in PERCENTAGES else f"{value:.{digits}f}"


def format_bound(name: str, value: float) -> str:
    """A figure as exactly as an interval deserves."""
    return format_value(name, value, 2 if name in PERCENTAGES else 4)


def format_interval(name: str, figure: Interval) -> str:
    """A figure with its interval."""
    text = format_value(name, figure.value)
    if figure.low is None or figure.high is None:
        return text
    low, high = (format_value(name, bound, 2) for bound in (figure.low, figure.high))
    return f"{text} ({LEVEL:.0%} interval {low} to {high})"


def describe_group(group: GroupResult) -> list[str]:
    """A group's scores as lines for the screen; the primary figure first."""
    primary = group.primary
    lines = [f"{NAMES[primary]}: {format_interval(primary, group.scores[primary])}"]
    if group.kind is TRANSCRIPTS:
        counts = group.counts
        lines.append(
            f"{counts['substitutions']} substitutions, {counts['deletions']} deletions, "
            f"{counts['insertions']} insertions; {counts['num_words']} words in "
            f"{counts['num_clips']} clips"
        )
    others = [name for name in group.scores if name != primary]
    texts = [f"{NAMES[name]}: {format_value(name, group.scores[name].value)}" for name in others]
    if texts:
        lines.append(", ".join(texts))
    if group.kind is CAPTIONS:
        lines.append(_describe_captions(group))
    lines += describe_oddities(group)
    return lines + [f"not computed: {note}" for note in group.notes]


def describe_oddities(group: GroupResult) -> list[str]:
    """Clips that did not go the usual way, counted; nothing where there are none."""
    counts = group.counts
    lines = []
    if counts["num_skipped"]:
        lines.append(f"{counts['num_skipped']} skipped clips are scored as empty answers")
    texts = {
        "num_truncated": "cut to 30 s",
        "num_chunked": "decoded in pieces of at most 30 s",
        "num_looping": "stopped because they looped",
        "num_runaway": "stopped because they were too long for their audio",
        "num_cut_at_max_new_tokens": "cut at max_new_tokens",
    }
    found = [f"{counts[key]} {text}" for key, text in texts.items() if counts[key]]
    return [*lines, *([f"of {counts['num_clips']} clips: {', '.join(found)}"] if found else [])]


def _describe_captions(group: GroupResult) -> str:
    facts = group.facts
    human = facts["human_cider_d"]
    ceiling = "" if human is None else f"; people's captions: {human:.4f}"
    return (
        f"for comparison, CIDEr-D of '{facts['constant_caption']}' for every clip: "
        f"{facts['constant_caption_cider_d']:.4f}{ceiling}; {facts['vocabulary']} different words "
        f"(references: {facts['reference_vocabulary']}), {facts['unique_caption_share']:.1%} of "
        "captions are unique"
    )
