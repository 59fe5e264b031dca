"""CIDEr-D, BLEU and ROUGE-L of captions, clip by clip and fast.

In: tokens of one hypothesis and of several references per clip. Out: numbers per clip, whose means
(CIDEr-D, ROUGE-L) or sums (BLEU) give the corpus figure. 100,000 clips take some seconds: n-grams
are numbers in flat arrays, not tuples in dictionaries. Equal to aac-metrics 0.5.4 on its examples
and on random captions (`tests/test_caption_counts.py`).

- CIDEr-D: Vedantam et al. 2015, with clipping, a Gaussian length penalty and a scale of 10.
- BLEU: Papineni et al. 2002, closest reference length, the tiny constants of COCO's program.
- ROUGE-L: Lin 2004 with beta 1.2; best precision and best recall over the references.

Letters: N clips, R references of all clips, T texts (hypotheses first, then references), E entries
(one per text and different n-gram in it), G different n-grams of one length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq

from audiolm.evaluation.intervals import Measure, mean_of

CIDER_SCALE = 10.0
MAX_ORDER = 4
_ROUGE_BETA = 1.2
_TINY, _SMALL = 1e-15, 1e-9  # COCO's: a sentence without n-grams scores 0, never 0 / 0


@dataclass(frozen=True)
class _Entries:
    """N-grams of one length: entry e is n-gram `grams[e]`, `counts[e]` times in a text.

    `owners` is the hypothesis' or reference's number; entries are sorted by owner, then n-gram.
    """

    owners: np.ndarray
    grams: np.ndarray
    counts: np.ndarray


class CaptionCounts:
    """N-gram counts of hypotheses and references, and the scores made of them.

    Args:
        hypotheses: tokens of N hypotheses.
        references: tokens of the references of each clip; at least one per clip.
        max_order: longest n-gram.
    """

    def __init__(
        self,
        hypotheses: Sequence[Sequence[str]],
        references: Sequence[Sequence[Sequence[str]]],
        max_order: int = MAX_ORDER,
    ) -> None:
        self.max_order = max_order
        self.num_clips = len(hypotheses)
        per_clip = np.array([len(texts) for texts in references])
        self.clip_of_reference = np.repeat(np.arange(self.num_clips), per_clip)  # (R,)
        self._references_per_clip = per_clip
        texts = [*hypotheses, *(tokens for texts in references for tokens in texts)]
        self._ids = _number_tokens(texts)
        lengths = np.array([len(ids) for ids in self._ids])
        self.lengths, self.reference_lengths = np.split(lengths, [self.num_clips])
        self._orders = [
            (entries, num_grams)
            for entries, num_grams in _count_ngrams(self._ids, lengths, max_order)
        ]

    def cider_d(self, sigma: float = 6.0) -> np.ndarray:
        """CIDEr-D of each clip, (N,), 0 to 10."""
        similarities = sum(self._similarity(*order) for order in self._split_orders())  # (R,)
        # a caption's length is its number of bigrams, where those are counted
        lengths = np.maximum(self.lengths - 1, 0)[self.clip_of_reference]
        differences = lengths - np.maximum(self.reference_lengths - 1, 0)
        differences = differences if self.max_order > 1 else np.zeros_like(differences)
        penalty = np.exp(-(differences**2) / (2 * sigma**2))
        per_reference = similarities * penalty / self.max_order
        return CIDER_SCALE * self._sum_by_clip(per_reference) / self._references_per_clip

    def bleu_rows(self) -> np.ndarray:
        """What each clip adds to BLEU: length, closest reference length, then for each order the
        n-grams that are right and all n-grams; (N, 2 + 2 * max_order)."""
        columns = [self.lengths, self._closest_lengths()]
        for order, (hypotheses, references, num_grams) in enumerate(self._split_orders(), start=1):
            keys = self.clip_of_reference[references.owners] * num_grams + references.grams
            found_keys, starts, order_of = _group(keys)
            best = np.maximum.reduceat(references.counts[order_of], starts) if len(keys) else keys
            places, is_found = _look_up(
                hypotheses.owners * num_grams + hypotheses.grams, found_keys
            )
            right = np.minimum(hypotheses.counts[is_found], best[places])
            owners = hypotheses.owners[is_found]
            columns.append(np.bincount(owners, weights=right, minlength=self.num_clips))
            columns.append(np.maximum(self.lengths - order + 1, 0))
        return np.stack(columns, axis=1).astype(np.float64)

    def rouge_l(self) -> np.ndarray:
        """ROUGE-L of each clip, (N,), 0 to 1; a reference without words counts as missed."""
        hypotheses, references = self._ids[: self.num_clips], self._ids[self.num_clips :]
        pairs = zip(self.clip_of_reference, references, strict=True)
        common = np.array([LCSseq.similarity(hypotheses[clip], ids) for clip, ids in pairs])
        precision = common / np.maximum(self.lengths[self.clip_of_reference], 1)
        recall = common / np.maximum(self.reference_lengths, 1)
        starts = np.cumsum(self._references_per_clip) - self._references_per_clip
        precision, recall = np.maximum.reduceat([precision, recall], starts, axis=1)
        weighted = (1 + _ROUGE_BETA**2) * precision * recall
        total = recall + _ROUGE_BETA**2 * precision
        return np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)

    def _split_orders(self) -> Iterator[tuple[_Entries, _Entries, int]]:
        """Entries of hypotheses and of references, and G, for each n-gram length."""
        for entries, num_grams in self._orders:
            end = np.searchsorted(entries.owners, self.num_clips)
            yield (
                _Entries(entries.owners[:end], entries.grams[:end], entries.counts[:end]),
                _Entries(
                    entries.owners[end:] - self.num_clips,
                    entries.grams[end:],
                    entries.counts[end:],
                ),
                num_grams,
            )

    def _similarity(self, hypotheses: _Entries, references: _Entries, num_grams: int) -> np.ndarray:
        """Clipped cosine of tf-idf vectors of one n-gram length, (R,)."""
        reference_keys = self.clip_of_reference[references.owners] * num_grams + references.grams
        clip_keys = _group(reference_keys)[0]
        clip_frequency = np.bincount(clip_keys % num_grams, minlength=num_grams)
        idf = np.log(float(self.num_clips)) - np.log(np.maximum(clip_frequency, 1))
        values = hypotheses.counts * idf[hypotheses.grams]
        reference_values = references.counts * idf[references.grams]
        norms = _norms(hypotheses.owners, values, self.num_clips)[self.clip_of_reference]
        norms = norms * _norms(references.owners, reference_values, len(norms))
        keys = hypotheses.owners * num_grams + hypotheses.grams  # sorted
        places, is_found = _look_up(reference_keys, keys)
        found_values = reference_values[is_found]
        products = np.minimum(values[places], found_values) * found_values
        sums = np.bincount(references.owners[is_found], weights=products, minlength=len(norms))
        return np.divide(sums, norms, out=np.zeros_like(norms), where=norms != 0)

    def _closest_lengths(self) -> np.ndarray:
        """Of each clip, the reference length nearest to the hypothesis'; of two, the shorter."""
        distances = np.abs(self.reference_lengths - self.lengths[self.clip_of_reference])
        order = np.lexsort((self.reference_lengths, distances, self.clip_of_reference))
        starts = np.cumsum(self._references_per_clip) - self._references_per_clip
        return self.reference_lengths[order[starts]]

    def _sum_by_clip(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.clip_of_reference, weights=values, minlength=self.num_clips)


def measure_captions(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    n: int = MAX_ORDER,
    sigma: float = 6.0,
) -> dict[str, Measure]:
    """`cider_d`, `bleu_1` to `bleu_4` and `rouge_l` of tokenised captions.

    CIDEr-D's n-gram weights come from all clips given here, also where some are resampled or
    selected later.

    Args:
        hypotheses, references: as `CaptionCounts`.
        n, sigma: longest n-gram and width of the length penalty of CIDEr-D.
    """
    counts = CaptionCounts(hypotheses, references)
    cider_counts = counts if n == MAX_ORDER else CaptionCounts(hypotheses, references, n)
    rows = counts.bleu_rows()
    measures = {"cider_d": mean_of(cider_counts.cider_d(sigma))}
    for order in range(1, MAX_ORDER + 1):
        measures[f"bleu_{order}"] = Measure(rows[:, : 2 + 2 * order], compute_bleu)
    measures["rouge_l"] = mean_of(counts.rouge_l())
    return measures


def compute_bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU, 0 to 1, of summed `CaptionCounts.bleu_rows` (..., 2 + 2 * order) -> (...)."""
    length, reference_length = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2::2], sums[..., 3::2]  # (..., order)
    precisions = (right + _TINY) / (total + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.prod(precisions, axis=-1) ** (1 / right.shape[-1]) * brevity


def _number_tokens(texts: Iterable[Sequence[str]]) -> list[list[int]]:
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(token, len(numbers)) for token in tokens] for tokens in texts]


def _count_ngrams(
    texts: Sequence[Sequence[int]], lengths: np.ndarray, max_order: int
) -> Iterator[tuple[_Entries, int]]:
    """Entries of all texts and the number of different n-grams, for lengths 1 to `max_order`."""
    tokens = np.fromiter((i for ids in texts for i in ids), dtype=np.int64, count=lengths.sum())
    num_tokens = int(tokens.max(initial=-1)) + 1
    owners = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(tokens))
    lefts = np.repeat(np.cumsum(lengths), lengths) - places  # tokens of the text from here on
    grams = tokens
    for order in range(1, max_order + 1):
        if order > 1:
            is_inside = lefts >= order
            places, owners, lefts = places[is_inside], owners[is_inside], lefts[is_inside]
            grams = grams[is_inside] * num_tokens + tokens[places + order - 1]
        unique, starts, order_of = _group(grams)
        num_grams = max(len(unique), 1)
        sizes = np.diff(starts, append=len(grams))
        grams = np.empty_like(grams)
        grams[order_of] = np.repeat(np.arange(len(unique)), sizes)
        keys, starts, _ = _group(owners * num_grams + grams)
        counts = np.diff(starts, append=len(grams))
        yield _Entries(keys // num_grams, keys % num_grams, counts), num_grams


def _group(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different keys, where each starts in sorted order, and that order."""
    order = np.argsort(keys)
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_first)
    return ordered[starts], starts, order


def _look_up(keys: np.ndarray, sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in `sorted_keys` of those keys that are there, and which of `keys` they are."""
    if len(sorted_keys) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(len(keys), dtype=bool)
    places = np.searchsorted(sorted_keys, keys)
    places[places == len(sorted_keys)] = 0
    is_found = sorted_keys[places] == keys
    return places[is_found], is_found


def _norms(owners: np.ndarray, values: np.ndarray, num_owners: int) -> np.ndarray:
    return np.sqrt(np.bincount(owners, weights=values**2, minlength=num_owners))
