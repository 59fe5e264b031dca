"""What is known of a set of captions beside its scores: words, variety, floor and ceiling.

In: hypotheses and references as they are. Out: plain values by name.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from audiolm.evaluation.aac import compute_best_constant_caption
from audiolm.evaluation.caption_counts import CaptionCounts, count_ngrams
from audiolm.evaluation.caption_tokens import CaptionTokens, number_tokens
from audiolm.evaluation.intervals import Measure, mean_of
from audiolm.evaluation.ptb_tokenizer import tokenize_ptb

MAX_FLOOR_CANDIDATES = 300
MAX_FLOOR_CLIPS = 2000


def describe_captions(
    tokens: CaptionTokens, counts: CaptionCounts, references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Vocabulary, share of unique captions, constant-caption floor, human ceiling.

    Args:
        tokens, counts: of hypotheses and references, the Penn Treebank's.
        references: the references' texts, in the same order.
    """
    caption, floor = find_floor(references)
    return {
        "vocabulary": len(tokens.hypothesis_words()),
        "reference_vocabulary": len(tokens.reference_words()),
        "unique_caption_share": tokens.unique_hypothesis_share(),
        "constant_caption": caption,
        "constant_caption_cider_d": floor,
        "human_cider_d": measure_humans(counts),
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


def measure_humans(counts: CaptionCounts) -> float | None:
    """CIDEr-D of each clip's first reference against its others; None where a clip has only one.

    A ceiling with one reference less than a model is given, so a little low.
    """
    if (counts.layout.texts_per_clip < 3).any():
        return None
    return float(counts.without_hypotheses().cider_d().mean())


def measure_untokenised(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """CIDEr-D as the organiser's script computes it: hypotheses lower-cased, references as they
    are, both cut at spaces alone. Perfect captions score about 7 there; it only serves to compare
    with numbers published that way."""
    said = [text.lower() for text in hypotheses]
    return mean_of(count_ngrams(number_tokens(said, references, str.split)).cider_d())
