"""Word error rate of a set of transcripts, two ways from the same texts.

In: one hypothesis and one reference text per clip. Out: a `WerResult` over all clips together.

- `reference`: Whisper's English normaliser, then mteval-13a tokens, punctuation tokens dropped. The
  organiser's scorer; its figures are in `tests/data/golden/metrics`.
- `open_asr`: Whisper's English normaliser, then words between spaces. The Open ASR Leaderboard's.

The normaliser is in `transcript_normalizer.py`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from audiolm.errors import UserError
from audiolm.evaluation.transcript_normalizer import normalize_transcript

# mteval-v13a (NIST): entities, then a space around symbols, around stops and commas that are not
# between digits, and around a dash after a digit.
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOLS_13A = re.compile(r"([ !\"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])")
_STOP_AFTER_NON_DIGIT = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_NON_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")

_EDITS = ("replace", "delete", "insert")  # rapidfuzz's names, from reference to hypothesis
_UNTOUCHED_13A = re.compile(r"[a-z0-9 ]*")


@dataclass(frozen=True)
class WerResult:
    """Word errors of a set of clips.

    `wer` is a fraction: (substitutions + deletions + insertions) / num_words, summed over all clips
    before the division. When no reference holds a word it is the number of insertions, as if there
    had been one word: 0.0 when the hypotheses are empty too, never a division by zero.
    """

    wer: float
    substitutions: int
    deletions: int
    insertions: int
    num_words: int  # in the references, after normalisation


def compute_wer(
    hypotheses: Sequence[str], references: Sequence[str], scorer: str = "reference"
) -> WerResult:
    """Corpus word error rate of `hypotheses` against `references`, one of each per clip.

    A clip with an empty reference stays in: the words heard in it count as insertions.

    Args:
        hypotheses: what was recognised.
        references: what was said, in the same order.
        scorer: `reference` or `open_asr` (see the top of this file).

    Raises:
        UserError: unknown scorer, no clip at all, or different numbers of texts.
    """
    if scorer not in TOKENIZERS:
        raise UserError(f"unknown WER scorer {scorer!r}: choose one of {', '.join(TOKENIZERS)}")
    check_pairs(hypotheses, references)
    tokenize = TOKENIZERS[scorer]
    pairs = zip(hypotheses, references, strict=True)
    rows = count_errors([(tokenize(hypothesis), tokenize(text)) for hypothesis, text in pairs])
    substitutions, deletions, insertions, num_words = (int(count) for count in rows.sum(axis=0))
    return WerResult(
        wer=float(compute_error_rate(rows.sum(axis=0))),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        num_words=num_words,
    )


def check_pairs(hypotheses: Sequence[str], references: Sequence[object]) -> None:
    """Make sure there is one hypothesis per reference, and a clip at all.

    Raises:
        UserError: there is not.
    """
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses against {len(references)} references: "
            "scores need one of each per clip, in the same order"
        )
    if not hypotheses:
        raise UserError("no clips to score: give at least one hypothesis and its reference")


def count_errors(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> np.ndarray:
    """Edits that turn each reference into its hypothesis: (N, 4) float64 of substitutions,
    deletions, insertions and reference tokens. `pairs` are tokens of (hypothesis, reference); a
    text's characters will do as tokens."""
    rows = []
    for hypothesis, reference in pairs:
        edits = [0, 0, 0]
        if hypothesis != reference:
            for edit in Levenshtein.editops(reference, hypothesis):
                edits[_EDITS.index(edit.tag)] += 1
        rows.append((*edits, len(reference)))
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def compute_error_rate(sums: np.ndarray) -> np.ndarray:
    """Error rate of summed `count_errors` rows (..., 4) -> (...), as `WerResult.wer`."""
    return sums[..., :3].sum(axis=-1) / np.maximum(sums[..., 3], 1)


def tokenize_reference(text: str) -> list[str]:
    """Words of `text` as the scorer `reference` counts them: normalised, 13a, no punctuation."""
    return split_13a(normalize_transcript(text))


def split_13a(line: str) -> list[str]:
    """mteval-13a tokens of normalised text, without those that are punctuation."""
    if _UNTOUCHED_13A.fullmatch(line):
        return line.split()
    line = line.replace("\n", " ")
    for entity, character in _ENTITIES:
        line = line.replace(entity, character)
    line = _SYMBOLS_13A.sub(r" \1 ", f" {line} ")
    line = _STOP_AFTER_NON_DIGIT.sub(r"\1 \2 ", line)
    line = _STOP_BEFORE_NON_DIGIT.sub(r" \1 \2", line)
    line = _DASH_AFTER_DIGIT.sub(r"\1 \2 ", line)
    return [token for token in line.split() if not _is_punctuation(token)]


def tokenize_open_asr(text: str) -> list[str]:
    """Words of `text` as the scorer `open_asr` counts them: normalised, split at spaces.

    The normaliser keeps a stop of a final "..." as a word; the leaderboard counts it, so this does.
    """
    return normalize_transcript(text).split()


def _is_punctuation(token: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in token)


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "reference": tokenize_reference,
    "open_asr": tokenize_open_asr,
}
