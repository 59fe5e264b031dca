"""What is known of a set of captions beside its scores: words, variety, floor and ceiling.

In: hypotheses and references as they are. Out: plain values by name.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from audiolm.evaluation.aac import compute_best_constant_caption
from audiolm.evaluation.caption_counts import CaptionCounts
from audiolm.evaluation.intervals import Measure, mean_of
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb

MAX_FLOOR_CANDIDATES = 300
MAX_FLOOR_CLIPS = 2000


def describe_captions(
    said: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[Sequence[str]]],
    references: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Vocabulary, share of unique captions, constant-caption floor, human ceiling.

    Args:
        said, wanted: Penn Treebank tokens of hypotheses and of references.
        references: the references' texts, in the same order.
    """
    vocabulary = {word for words in said for word in words}
    reference_vocabulary = {word for texts in wanted for words in texts for word in words}
    caption, floor = find_floor(references)
    return {
        "vocabulary": len(vocabulary),
        "reference_vocabulary": len(reference_vocabulary),
        "unique_caption_share": len(set(map(tuple, said))) / len(said),
        "constant_caption": caption,
        "constant_caption_cider_d": floor,
        "human_cider_d": measure_humans(wanted),
    }


def find_floor(references: Sequence[Sequence[str]]) -> tuple[str, float]:
    """The best caption that never listens, among the references, and its CIDEr-D.

    Candidates are at most 300 references, those whose words are in the most references; clips at
    most 2,000, evenly spread: the floor of a large set is an estimate.
    """
    step = -(-len(references) // MAX_FLOOR_CLIPS)
    sample = references[::step]
    tokens = {text: tokenize_ptb(text) for texts in sample for text in texts}
    frequency = Counter(word for words in tokens.values() for word in set(words))

    def commonness(text: str) -> float:
        words = set(tokens[text])
        return sum(frequency[word] for word in words) / (len(words) + 1)

    candidates = sorted(tokens, key=lambda text: (-commonness(text), text))
    return compute_best_constant_caption(sample, candidates[:MAX_FLOOR_CANDIDATES])


def measure_humans(references: Sequence[Sequence[Sequence[str]]]) -> float | None:
    """CIDEr-D of each clip's first reference against its others; None where a clip has only one.

    A ceiling with one reference less than a model is given, so a little low.
    """
    if len(references) < 2 or any(len(texts) < 2 for texts in references):
        return None
    counts = CaptionCounts([texts[0] for texts in references], [t[1:] for t in references])
    return float(counts.cider_d().mean())


def measure_untokenised(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """CIDEr-D as the organiser's script computes it: hypotheses lower-cased, references as they
    are, both cut at spaces alone. Perfect captions score about 7 there; it only serves to compare
    with numbers published that way."""
    said = [text.lower().split() for text in hypotheses]
    counts = CaptionCounts(said, [[text.split() for text in texts] for texts in references])
    return mean_of(counts.cider_d())
