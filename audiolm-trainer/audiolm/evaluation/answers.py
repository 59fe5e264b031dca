"""Right or wrong: answers to questions, and labels such as gender, emotion, same speaker or not.

In: one hypothesis and the accepted references per clip. Out: per-clip numbers between 0 and 1.

Texts are compared after lower-casing, with punctuation, the articles a, an, the and extra space
removed (Rajpurkar et al. 2016, SQuAD).
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from audiolm.evaluation.intervals import Measure, mean_of

_ARTICLES = frozenset(["a", "an", "the"])
# Words for one label, each to the first of its group.
_SYNONYMS = {
    word: group[0]
    for group in (
        ("man", "male", "men", "boy", "m"),
        ("woman", "female", "women", "girl", "f"),
        ("yes", "true", "same"),
        ("no", "false", "different"),
        ("happy", "happiness", "joy", "joyful", "excited"),
        ("sad", "sadness"),
        ("angry", "anger"),
        ("neutral", "calm"),
        ("fear", "fearful", "afraid", "scared"),
        ("disgust", "disgusted"),
        ("surprise", "surprised"),
    )
    for word in group
}


def normalize_answer(text: str) -> str:
    """Lower-case words without punctuation and articles, joined by single spaces."""
    characters = [
        " " if unicodedata.category(c)[0] in "PS" else c
        for c in unicodedata.normalize("NFKC", text.lower())
    ]
    words = "".join(characters).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def measure_answers(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Measure]:
    """`exact_match`: equal to a reference; `contains`: holds a reference as whole words;
    `token_f1`: harmonic mean of word precision and recall, of the best reference."""
    matches, holds, overlaps = [], [], []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        said = normalize_answer(hypothesis)
        wanted = [normalize_answer(text) for text in texts]
        matches.append(said in wanted)
        holds.append(any(f" {text} " in f" {said} " for text in wanted if text) or said in wanted)
        overlaps.append(max(_word_f1(said.split(), text.split()) for text in wanted))
    return {
        "exact_match": mean_of(np.array(matches)),
        "contains": mean_of(np.array(holds)),
        "token_f1": mean_of(np.array(overlaps)),
    }


def measure_labels(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Measure]:
    """`accuracy`: the reference's label is the answer, or the only one of the labels in it.

    The labels are those of all references; synonyms (male and man, ...) count as one.
    """
    wanted = [{_find_label(text) for text in texts} for texts in references]
    labels = set().union(*wanted)
    right = []
    for hypothesis, accepted in zip(hypotheses, wanted, strict=True):
        said = _find_label(hypothesis)
        found = {label for label in labels if label and f" {label} " in f" {said} "}
        right.append(said in accepted or (len(found) == 1 and found <= accepted))
    return {"accuracy": mean_of(np.array(right))}


def _find_label(text: str) -> str:
    words = normalize_answer(text).replace("not same", "no").split()
    return " ".join(_SYNONYMS.get(word, word) for word in words)


def _word_f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    num_common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * num_common / (len(said) + len(wanted))
