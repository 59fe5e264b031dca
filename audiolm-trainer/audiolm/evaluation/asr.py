"""Word error rate of a set of transcripts, two ways from the same texts.

In: one hypothesis and one reference text per clip. Out: a `WerResult` over all clips together.

- `reference`: Whisper's English normaliser, then mteval-13a tokens, punctuation tokens dropped. The
  organiser's scorer; its figures are in `tests/data/golden/metrics`.
- `open_asr`: Whisper's English normaliser, then words between spaces. The Open ASR Leaderboard's.

The normaliser is that of Radford et al. 2022 (appendix C), from the package `whisper-normalizer`.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from rapidfuzz.distance import Levenshtein
from whisper_normalizer.english import EnglishTextNormalizer

from audiolm.errors import UserError

# Python turns at most 4,300 digits into a number; far shorter runs are already not speech.
_LONG_NUMBER = re.compile(r"(?:\d,?){1000}")

# mteval-v13a (NIST): entities, then a space around symbols, around stops and commas that are not
# between digits, and around a dash after a digit.
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOLS_13A = re.compile(r"([ !\"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])")
_STOP_AFTER_NON_DIGIT = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_NON_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")

_EDITS = ("replace", "delete", "insert")  # rapidfuzz's names, from reference to hypothesis

# Words that the normaliser changes each by itself, whatever stands beside them: the quick way.
_PLAIN_WORD = r"[a-z]+(?:'[a-z]+)?[.,!?;:]?"
_PLAIN_TEXT = re.compile(rf"{_PLAIN_WORD}(?:\s{_PLAIN_WORD})*")
# Beside numbers, these make or close a contraction or a number together with their neighbours.
_DEPENDENT_WORDS = frozenset("half been gone done got".split())
# Beside such a word these belong to it; all but two of them disappear.
_LINKING_WORDS = frozenset("and a hmm mm mhm mmm uh um".split())
_AFTER_WORD = re.compile(r"(?:'[a-z]+)?[.,!?;:]?\Z")
_SPACES = re.compile(r"\s+")
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


def normalize_transcript(text: str) -> str:
    """`text` after Whisper's English normaliser, the first step of both scorers.

    Any script passes through; Hangul comes out decomposed (NFKD), on both sides alike. Plain text
    goes word by word, or number by number, from memory: the same, ten times faster.
    """
    lowered = text.lower()
    if _PLAIN_TEXT.fullmatch(lowered):
        pieces = filter(None, map(_normalize_piece, _split_pieces(lowered.split())))
        return _SPACES.sub(" ", " ".join(pieces))
    return _build_normalizer()(_LONG_NUMBER.sub(r"\g<0> ", text))


def _split_pieces(words: list[str]) -> list[str]:
    """Words, and runs of words that the normaliser has to see together."""
    dependent = _dependent_words()
    bare = [_AFTER_WORD.sub("", word) for word in words]
    if dependent.isdisjoint(bare):
        return words
    is_run = [word in dependent for word in bare]
    for order in (range(1, len(words)), range(len(words) - 2, -1, -1)):
        step = order.step
        for place in order:  # "two hundred and five", "four and a half"
            is_run[place] |= bare[place] in _LINKING_WORDS and is_run[place - step]
    for place in range(1, len(words)):  # "he's been"
        is_run[place - 1] |= is_run[place]
    groups = itertools.groupby(zip(is_run, words, strict=True), key=lambda pair: pair[0])
    pieces: list[str] = []
    for joins, group in groups:
        found = [word for _, word in group]
        pieces += [" ".join(found)] if joins else found
    return pieces


@lru_cache(maxsize=200_000)
def _normalize_piece(words: str) -> str:
    return _build_normalizer()(words)


@cache
def _dependent_words() -> frozenset[str]:
    numbers = _build_normalizer().standardize_numbers.words - _LINKING_WORDS
    return frozenset(numbers) | _DEPENDENT_WORDS


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


@cache
def _build_normalizer() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()  # reads its spelling table from disk


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "reference": tokenize_reference,
    "open_asr": tokenize_open_asr,
}
