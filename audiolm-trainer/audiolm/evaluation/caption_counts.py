"""CIDEr-D, BLEU and ROUGE-L of captions, clip by clip and fast.

In: tokens of one hypothesis and of several references per clip. Out: numbers per clip, whose means
(CIDEr-D, ROUGE-L) or sums (BLEU) give the corpus figure. 100,000 clips take some seconds: n-grams
are numbers in flat arrays, not tuples in dictionaries. Equal to aac-metrics 0.5.4 on its examples
and on random captions (`tests/test_caption_counts.py`).

- CIDEr-D: Vedantam et al. 2015, with clipping, a Gaussian length penalty and a scale of 10.
- BLEU: Papineni et al. 2002, closest reference length, the tiny constants of COCO's program.
- ROUGE-L: Lin 2004 with beta 1.2; best precision and best recall over the references.

Letters: N clips, T texts (each clip's hypothesis, then its references, clip after clip), R
references of all clips, E entries (one per text and different n-gram in it), S sets of entries (one
per clip and different n-gram in it), G different n-grams of one length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq

from audiolm.evaluation.caption_tokens import CaptionLayout, CaptionTokens
from audiolm.evaluation.intervals import Measure, mean_of

CIDER_SCALE = 10.0
MAX_ORDER = 4
_ROUGE_BETA = 1.2
_TINY, _SMALL = 1e-15, 1e-9  # COCO's: a sentence without n-grams scores 0, never 0 / 0


@dataclass(frozen=True)
class _Entries:
    """N-grams of one length: `grams[e]` is `counts[e]` times in text `texts[e]`; (E,) int32 each.

    Sorted by clip, n-gram and text: where several texts of a clip hold an n-gram, their entries are
    neighbours, a set, with the hypothesis' first.
    """

    texts: np.ndarray
    grams: np.ndarray
    counts: np.ndarray
    num_grams: int


class CaptionCounts:
    """The scores made of n-gram counts of hypotheses and references: see `count_ngrams`.

    Args:
        layout: which texts there are.
        orders: their n-grams of one word, of two, and so on.
    """

    def __init__(self, layout: CaptionLayout, orders: Sequence[_Entries]) -> None:
        self.layout = layout
        self._orders = orders

    def without_hypotheses(self) -> "CaptionCounts":
        """The same of the references alone: each clip's first one in the hypothesis' place.

        Every clip must have two references or more.
        """
        orders = []
        for entries in self._orders:
            is_kept = self.layout.is_reference[entries.texts]
            texts = entries.texts[is_kept]
            texts = texts - (self.layout.clip_of_text[texts] + 1)  # hypotheses up to here
            kept = entries.grams[is_kept], entries.counts[is_kept]
            orders.append(_Entries(texts.astype(np.int32), *kept, entries.num_grams))
        return CaptionCounts(self.layout.without_hypotheses(), orders)

    def cider_d(self, sigma: float = 6.0) -> np.ndarray:
        """CIDEr-D of each clip, (N,), 0 to 10."""
        similarities = sum(map(self._similarity, self._orders)) / len(self._orders)  # (T,)
        # a caption's length is its number of bigrams, where those are counted
        lengths = np.maximum(self.layout.lengths - 1, 0) * (len(self._orders) > 1)
        differences = lengths - self.layout.of_hypothesis(lengths)
        similarities *= np.exp(-(differences**2) / (2 * sigma**2))
        sums = np.bincount(
            self.layout.clip_of_text,
            weights=np.where(self.layout.is_reference, similarities, 0),
            minlength=self.layout.num_clips,
        )
        return CIDER_SCALE * sums / (self.layout.texts_per_clip - 1)

    def bleu_rows(self) -> np.ndarray:
        """What each clip adds to BLEU: length, closest reference length, then for each order the
        n-grams that are right and all n-grams; (N, 2 + 2 * order)."""
        lengths = self.layout.lengths[self.layout.hypotheses]
        columns = [lengths, self._closest_lengths()]
        for order, entries in enumerate(self._orders, start=1):
            firsts, _, clips = self._find_sets(entries)
            is_reference = self.layout.is_reference[entries.texts]
            wanted = np.where(is_reference, entries.counts, 0)
            most = np.maximum.reduceat(wanted, firsts) if len(firsts) else firsts
            said = np.where(is_reference, 0, entries.counts)[firsts]
            right = np.minimum(said, most)
            columns.append(np.bincount(clips, weights=right, minlength=len(lengths)))
            columns.append(np.maximum(lengths - order + 1, 0))
        return np.stack(columns, axis=1).astype(np.float64)

    def _similarity(self, entries: _Entries) -> np.ndarray:
        """Of each text and its hypothesis, the clipped cosine of their tf-idf vectors of one n-gram
        length, (T,)."""
        firsts, lasts, _ = self._find_sets(entries)
        is_wanted = self.layout.is_reference[entries.texts[lasts]]
        clip_frequency = np.bincount(entries.grams[lasts[is_wanted]], minlength=entries.num_grams)
        idf = np.log(float(self.layout.num_clips)) - np.log(np.maximum(clip_frequency, 1))
        values = entries.counts * idf[entries.grams]
        said = np.where(self.layout.is_reference[entries.texts[firsts]], 0, values[firsts])
        said = np.repeat(said, lasts - firsts + 1)
        sums, squares = (
            np.bincount(entries.texts, weights=weights, minlength=len(self.layout.lengths))
            for weights in (np.minimum(said, values) * values, values**2)
        )
        norms = np.sqrt(squares)
        norms *= self.layout.of_hypothesis(norms)
        return np.divide(sums, norms, out=np.zeros_like(norms), where=norms != 0)

    def _find_sets(self, entries: _Entries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and last entry of each set, and its clip, (S,) each."""
        clips = self.layout.clip_of_text[entries.texts]
        is_first = np.ones(len(clips), dtype=bool)
        is_first[1:] = (clips[1:] != clips[:-1]) | (entries.grams[1:] != entries.grams[:-1])
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(clips))[: len(firsts)] - 1
        return firsts, lasts, clips[firsts]

    def _closest_lengths(self) -> np.ndarray:
        """Of each clip, the reference length nearest to the hypothesis'; of two, the shorter."""
        layout = self.layout
        distances = np.abs(layout.lengths - layout.of_hypothesis(layout.lengths))
        order = np.lexsort((layout.lengths, distances, layout.is_reference, layout.clip_of_text))
        return layout.lengths[order[layout.hypotheses + 1]]  # the hypothesis itself comes first


def count_ngrams(tokens: CaptionTokens, max_order: int = MAX_ORDER) -> CaptionCounts:
    """Count the n-grams of 1 to `max_order` words of captions, at least one reference per clip."""
    layout, num_words = tokens.layout, max(len(tokens.vocabulary), 1)
    # int32, and arrays changed in place: of 100,000 clips each of these is tens of MiB
    texts = np.repeat(np.arange(len(layout.lengths), dtype=np.int32), layout.lengths)  # (W,)
    places = np.arange(len(texts), dtype=np.int32)
    lefts = np.repeat(np.cumsum(layout.lengths, dtype=np.int32), layout.lengths)
    lefts -= places  # words of the text from here on
    grams, num_grams = tokens.ids, num_words
    orders = []
    for order in range(1, max_order + 1):
        if order > 1:
            is_inside = lefts >= order
            places, texts, lefts = places[is_inside], texts[is_inside], lefts[is_inside]
            longer = grams[is_inside].astype(np.int64)
            longer *= num_words
            longer += tokens.ids[places + (order - 1)]
            codes, different = pd.factorize(longer)
            grams, num_grams = codes.astype(np.int32), max(len(different), 1)
            del longer, codes, different
        orders.append(_count_entries(layout, texts, grams, num_grams))
    return CaptionCounts(layout, orders)


def _count_entries(
    layout: CaptionLayout, texts: np.ndarray, grams: np.ndarray, num_grams: int
) -> _Entries:
    """Entries of n-grams as they stand in the texts: `grams[i]` is one of text `texts[i]`."""
    num_slots = int(layout.texts_per_clip.max(initial=1))
    keys = layout.clip_of_text[texts]  # clip, then n-gram, then text within the clip
    slots = (texts - layout.hypotheses[keys]).astype(np.int32)
    keys *= num_grams
    keys += grams
    keys *= num_slots
    keys += slots
    keys.sort()
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(keys))
    sets, slots = np.divmod(keys[starts], num_slots)
    clips, grams = np.divmod(sets, num_grams)
    texts = layout.hypotheses[clips] + slots
    texts, grams, counts = (array.astype(np.int32) for array in (texts, grams, counts))
    return _Entries(texts, grams, counts, num_grams)


def compute_rouge_l(tokens: CaptionTokens) -> np.ndarray:
    """ROUGE-L of each clip, (N,), 0 to 1; a reference without words counts as missed."""
    layout, texts = tokens.layout, tokens.texts()
    common: list[int] = []  # words of each text and its hypothesis, in order, (T,)
    for num_texts in layout.texts_per_clip.tolist():
        said = next(texts)
        common.append(0)
        common += [LCSseq.similarity(said, next(texts)) for _ in range(num_texts - 1)]
    lengths = np.maximum(layout.lengths, 1)
    shares = np.array(common) / [layout.of_hypothesis(lengths), lengths]
    precision, recall = np.maximum.reduceat(shares, layout.hypotheses, axis=1)
    weighted = (1 + _ROUGE_BETA**2) * precision * recall
    total = recall + _ROUGE_BETA**2 * precision
    return np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)


def measure_captions(
    tokens: CaptionTokens,
    counts: CaptionCounts | None = None,
    *,
    n: int = MAX_ORDER,
    sigma: float = 6.0,
) -> dict[str, Measure]:
    """`cider_d`, `bleu_1` to `bleu_4` and `rouge_l` of tokenised captions.

    CIDEr-D's n-gram weights come from all clips given here, also where some are resampled or
    selected later.

    Args:
        tokens: of hypotheses and references.
        counts: theirs, if they are known already.
        n, sigma: longest n-gram and width of the length penalty of CIDEr-D.
    """
    counts = counts or count_ngrams(tokens)
    cider_counts = counts if n == MAX_ORDER else count_ngrams(tokens, n)
    rows = counts.bleu_rows()
    measures = {"cider_d": mean_of(cider_counts.cider_d(sigma))}
    for order in range(1, MAX_ORDER + 1):
        measures[f"bleu_{order}"] = Measure(rows[:, : 2 + 2 * order], compute_bleu)
    measures["rouge_l"] = mean_of(compute_rouge_l(tokens))
    return measures


def compute_bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU, 0 to 1, of summed `CaptionCounts.bleu_rows` (..., 2 + 2 * order) -> (...)."""
    length, reference_length = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2::2], sums[..., 3::2]  # (..., order)
    precisions = (right + _TINY) / (total + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.prod(precisions, axis=-1) ** (1 / right.shape[-1]) * brevity
