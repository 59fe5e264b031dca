"""Whisper's English normaliser, word by word where that gives the same.

In: a transcript. Out: the transcript as both WER scorers compare it: lower case, contractions and
titles spelt out, numbers in digits, American spelling, no fillers, brackets and punctuation.

The normaliser is that of Radford et al. 2022 (appendix C), from the package `whisper-normalizer`.
Its some fifty rules go over a whole text one after the other. But most words change each by itself,
whatever stands beside them, so they are looked up. Number words and the few others that rules see
together with their neighbours go through the normaliser with them, as a run of words. A text with
anything else in it (brackets, other scripts, clock times) goes through as a whole.
"""

import itertools
import re
from functools import cache, lru_cache

from whisper_normalizer.english import EnglishTextNormalizer

# Python turns at most 4,300 digits into a number; far shorter runs are already not speech.
_LONG_NUMBER = re.compile(r"(?:\d,?){1000}")

_SPACES = re.compile(r" {2,}")
_WORD = re.compile(r"([a-z]+)[.,!?;:]?")
_CONTRACTION = re.compile(r"([a-z]+)'[a-z]+[.,!?;:]?")
_COMPOUND = re.compile(r"([a-z]+(?:[-.][a-z]+)+)[.,!?;:]?")  # well-known, u.s.
_NUMBER = re.compile(r"[$€£]?[0-9]{1,9}(?:[.,][0-9]{1,9}){0,4}%?[.,!?;:]?")

# Beside numbers, these make or close a contraction or a number together with their neighbours.
_DEPENDENT_WORDS = frozenset("half been gone done got gotta".split())
# Beside such a word these belong to it: most disappear, the last five end a number in digits.
_LINKING_WORDS = frozenset("and a hmm mm mhm mmm uh um st nd rd th s".split())

_FREE, _LINKING, _DEPENDENT, _UNKNOWN = range(4)  # how a word hangs together with its neighbours


def normalize_transcript(text: str) -> str:
    """`text` after Whisper's English normaliser, the first step of both scorers.

    Any script passes through; Hangul comes out decomposed (NFKD), on both sides alike.
    """
    words = text.lower().split(" ")
    bonds = list(map(_find_bond, words))
    if _UNKNOWN in bonds:
        return build_normalizer()(_LONG_NUMBER.sub(r"\g<0> ", text))
    pieces = words if _DEPENDENT not in bonds else _join_runs(words, bonds)
    return _SPACES.sub(" ", " ".join(filter(None, map(_normalize_piece, pieces))))


@cache
def build_normalizer() -> EnglishTextNormalizer:
    """The whole normaliser; its spelling table is read from disk once."""
    return EnglishTextNormalizer()


@lru_cache(maxsize=200_000)
def _find_bond(word: str) -> int:
    """Whether a word, with what stands after it, can be normalised by itself."""
    if _NUMBER.fullmatch(word):
        return _DEPENDENT
    match = _WORD.fullmatch(word) or _CONTRACTION.fullmatch(word) or _COMPOUND.fullmatch(word)
    if match is None:
        return _UNKNOWN
    parts = re.split("[-.]", match[1])
    if not _dependent_words().isdisjoint(parts):
        return _DEPENDENT
    return _FREE if _LINKING_WORDS.isdisjoint(parts) else _LINKING


@cache
def _dependent_words() -> frozenset[str]:
    numbers = build_normalizer().standardize_numbers.words - _LINKING_WORDS
    return frozenset(numbers) | _DEPENDENT_WORDS


def _join_runs(words: list[str], bonds: list[int]) -> list[str]:
    """Words, and runs of words that the normaliser has to see together."""
    is_run = [bond == _DEPENDENT for bond in bonds]
    for order in (range(1, len(words)), range(len(words) - 2, -1, -1)):
        step = order.step
        for place in order:  # "two hundred and five", "four and a half"
            is_run[place] |= bonds[place] == _LINKING and is_run[place - step]
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
    match = _WORD.fullmatch(words)
    normalizer = build_normalizer()
    if match is None or match[1] in _words_of_rules():
        return normalizer(words)
    return normalizer.standardize_spellings.mapping.get(match[1], match[1])


@cache
def _words_of_rules() -> frozenset[str]:
    """Every word that a rule of the normaliser names; of others only the spelling can change."""
    normalizer = build_normalizer()
    patterns = " ".join([*normalizer.replacers, normalizer.ignore_patterns]).replace(r"\b", " ")
    return frozenset(re.findall("[a-z]+", patterns)) | _dependent_words() | _LINKING_WORDS
