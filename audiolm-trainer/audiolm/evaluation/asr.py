"""Word error rate of a set of transcripts, two ways from the same texts.

In: one hypothesis and one reference text per clip. Out: a `WerResult` over all clips together.

- `reference`: Whisper's English normaliser, then mteval-13a tokens, punctuation tokens dropped. The
  organiser's scorer; its figures are in `tests/data/golden/metrics`.
- `open_asr`: Whisper's English normaliser, then words between spaces. The Open ASR Leaderboard's.

The normaliser is that of Radford et al. 2022 (appendix C), from the package `whisper-normalizer`.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
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
    if scorer not in _TOKENIZERS:
        raise UserError(f"unknown WER scorer {scorer!r}: choose one of {', '.join(_TOKENIZERS)}")
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses against {len(references)} references: "
            "WER needs one of each per clip, in the same order"
        )
    if not hypotheses:
        raise UserError("no clips to score: WER needs at least one hypothesis and its reference")
    tokenize = _TOKENIZERS[scorer]
    alignment = jiwer.process_words(
        [" ".join(tokenize(text)) for text in references],
        [" ".join(tokenize(text)) for text in hypotheses],
    )
    num_words = alignment.hits + alignment.substitutions + alignment.deletions
    num_errors = alignment.substitutions + alignment.deletions + alignment.insertions
    return WerResult(
        wer=num_errors / max(num_words, 1),
        substitutions=alignment.substitutions,
        deletions=alignment.deletions,
        insertions=alignment.insertions,
        num_words=num_words,
    )


def normalize_transcript(text: str) -> str:
    """`text` after Whisper's English normaliser, the first step of both scorers.

    Any script passes through; Hangul comes out decomposed (NFKD), on both sides alike.
    """
    return _build_normalizer()(_LONG_NUMBER.sub(r"\g<0> ", text))


def tokenize_reference(text: str) -> list[str]:
    """Words of `text` as the scorer `reference` counts them: normalised, 13a, no punctuation."""
    line = normalize_transcript(text).replace("\n", " ")
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


_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "reference": tokenize_reference,
    "open_asr": tokenize_open_asr,
}
