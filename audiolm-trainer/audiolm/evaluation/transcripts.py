"""Every number about a set of transcripts, clip by clip.

In: one hypothesis and one reference per clip. Out: `Measure`s by name. Word error rates are those
of `asr.py`; characters and phones are counted by the same edits.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from audiolm.evaluation.asr import compute_error_rate, count_errors, split_13a
from audiolm.evaluation.intervals import Measure, mean_of
from audiolm.evaluation.transcript_normalizer import normalize_transcript

_PHONE_BORDERS = re.compile(r"[\s,;/|.]+")
_STRESS = re.compile(r"[0-9\u02c8\u02cc]")  # ARPAbet's digits, IPA's primary and secondary stress


def measure_transcripts(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """`wer`, `wer_open_asr`, `cer`, `sentence_error_rate` and `empty_share` of English-like text.

    `cer` counts the characters, single spaces included, of the text after Whisper's normaliser.
    """
    normalized = [
        (normalize_transcript(hypothesis).strip(), normalize_transcript(reference).strip())
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    words = [(split_13a(hypothesis), split_13a(reference)) for hypothesis, reference in normalized]
    plain = [(hypothesis.split(), reference.split()) for hypothesis, reference in normalized]
    return {
        "wer": Measure(count_errors(words), compute_error_rate),
        "wer_open_asr": Measure(count_errors(plain), compute_error_rate),
        "cer": Measure(count_errors(normalized), compute_error_rate),
        **_measure_wholes(words),
    }


def measure_characters(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """`cer`, `sentence_error_rate` and `empty_share` of languages scored by characters."""
    pairs = _split_pairs(hypotheses, references, split_characters)
    cer = Measure(count_errors(pairs), compute_error_rate)
    return {"cer": cer, **_measure_wholes(pairs)}


def measure_phones(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """`phone_error_rate`, `sentence_error_rate` and `empty_share` of phone sequences."""
    pairs = _split_pairs(hypotheses, references, split_phones)
    rate = Measure(count_errors(pairs), compute_error_rate)
    return {"phone_error_rate": rate, **_measure_wholes(pairs)}


def split_characters(text: str) -> list[str]:
    """Characters of lower-cased NFKC text, without spaces, punctuation and symbols."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return [c for c in folded if unicodedata.category(c)[0] not in "CPSZ"]


def split_phones(text: str) -> list[str]:
    """Phones between spaces, commas or slashes, lower-cased, without stress marks; a text that has
    no such border is cut into its characters."""
    pieces = [_STRESS.sub("", piece) for piece in _PHONE_BORDERS.split(text.strip().lower())]
    phones = [piece for piece in pieces if piece]
    return list(phones[0]) if len(phones) == 1 and not phones[0].isascii() else phones


def _split_pairs(
    hypotheses: Sequence[str], references: Sequence[str], split: Callable[[str], list[str]]
) -> list[tuple[list[str], list[str]]]:
    pairs = zip(hypotheses, references, strict=True)
    return [(split(hypothesis), split(reference)) for hypothesis, reference in pairs]


def _measure_wholes(pairs: Sequence[tuple[list[str], list[str]]]) -> dict[str, Measure]:
    """Shares of clips: with any error, and without an answer."""
    wrong = np.array([hypothesis != reference for hypothesis, reference in pairs])
    empty = np.array([not hypothesis for hypothesis, _ in pairs])
    return {"sentence_error_rate": mean_of(wrong), "empty_share": mean_of(empty)}
