"""CIDEr-D of one caption given for every clip, quickly for many candidates.

In: tokens of all references. Out: a floor for any model: what one that never listens can get.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from audiolm.evaluation.caption_counts import CIDER_SCALE


class ReferenceIndex:
    """CIDEr-D's tf-idf vectors of all references, by n-gram, to score a caption against all clips.

    R counts all references of all clips; row r of every array is one of them.
    """

    def __init__(
        self, references: Sequence[Sequence[Sequence[str]]], n: int = 4, sigma: float = 6.0
    ):
        self.n, self.sigma = n, sigma
        counts = [[_count_ngrams(tokens, self.n) for tokens in texts] for texts in references]
        clip_frequency = Counter(ngram for texts in counts for ngram in set().union(*texts))
        self.log_num_clips = np.log(float(len(references)))
        frequencies = np.array(list(clip_frequency.values()), dtype=float)
        idf = self.log_num_clips - np.log(frequencies)
        self.idf = dict(zip(clip_frequency, idf.tolist(), strict=True))
        rows = [count for texts in counts for count in texts]
        self.norms = np.zeros((self.n, len(rows)))  # (n, R)
        self.lengths = np.array([_length(count) for count in rows], dtype=float)  # (R,)
        # every clip weighs the same, and every reference within a clip
        self.weights = np.concatenate([np.full(len(texts), 1 / len(texts)) for texts in counts])
        self.weights /= len(references)
        self._postings: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._arrays: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        for row, count in enumerate(rows):
            squares = [0.0] * self.n
            for ngram, frequency in count.items():
                value = frequency * self.idf[ngram]
                rows_of, values_of = self._postings.setdefault(ngram, ([], []))
                rows_of.append(row)
                values_of.append(value)
                squares[len(ngram) - 1] += value**2
            self.norms[:, row] = squares
        self.norms = np.sqrt(self.norms)

    def constant_score(self, tokens: Sequence[str]) -> float:
        """CIDEr-D of `tokens` given as the caption of every clip."""
        count = _count_ngrams(tokens, self.n)
        similarities = np.zeros_like(self.norms)  # (n, R)
        norms = np.zeros((self.n, 1))
        for ngram, frequency in count.items():
            value = frequency * self.idf.get(ngram, self.log_num_clips)
            norms[len(ngram) - 1] += value**2
            if ngram in self._postings:
                rows, values = self._find(ngram)
                similarities[len(ngram) - 1, rows] += np.minimum(value, values) * values
        norms = np.sqrt(norms) * self.norms
        similarities = np.divide(similarities, norms, out=similarities, where=norms != 0)
        penalty = np.exp(-((_length(count) - self.lengths) ** 2) / (2 * self.sigma**2))
        return float(CIDER_SCALE * (similarities.mean(axis=0) * penalty) @ self.weights)

    def _find(self, ngram: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Rows that hold an n-gram, and its value in each."""
        if ngram not in self._arrays:
            rows, values = self._postings[ngram]
            self._arrays[ngram] = np.array(rows), np.array(values)
        return self._arrays[ngram]


def _count_ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + size])
        for size in range(1, n + 1)
        for start in range(len(tokens) - size + 1)
    )


def _length(count: Counter[tuple[str, ...]]) -> int:
    """A caption's length as CIDEr-D counts it: its number of bigrams."""
    return sum(frequency for ngram, frequency in count.items() if len(ngram) == 2)
