"""Captions as numbers: which words every hypothesis and every reference holds.

In: texts and a tokeniser. Out: `CaptionTokens`, flat arrays: 100,000 clips with five references
take tens of MiB, where lists of words would take half a GiB.

Letters: N clips, T texts (each clip's hypothesis, then its references, clip after clip), W words of
all texts together.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeVar

import numpy as np

Text = TypeVar("Text")


@dataclass(frozen=True)
class CaptionLayout:
    """Which texts belong together, and their lengths.

    Attributes:
        texts_per_clip: (N,) int64, one more than the clip has references.
        lengths: (T,) int64, words of each text.
    """

    texts_per_clip: np.ndarray
    lengths: np.ndarray

    @property
    def num_clips(self) -> int:
        """N"""
        return len(self.texts_per_clip)

    @cached_property
    def clip_of_text(self) -> np.ndarray:
        """(T,)"""
        return np.repeat(np.arange(self.num_clips), self.texts_per_clip)

    @cached_property
    def hypotheses(self) -> np.ndarray:
        """(N,) the number of the text that is the clip's hypothesis."""
        return np.cumsum(self.texts_per_clip) - self.texts_per_clip

    @cached_property
    def is_reference(self) -> np.ndarray:
        """(T,) bool"""
        is_reference = np.ones(len(self.lengths), dtype=bool)
        is_reference[self.hypotheses] = False
        return is_reference

    def of_hypothesis(self, values: np.ndarray) -> np.ndarray:
        """Of values per text, each text's hypothesis' own: (T,) -> (T,)."""
        return values[self.hypotheses][self.clip_of_text]

    def without_hypotheses(self) -> "CaptionLayout":
        """Each clip's first reference in its hypothesis' place."""
        return CaptionLayout(self.texts_per_clip - 1, self.lengths[self.is_reference])


@dataclass(frozen=True)
class CaptionTokens:
    """Tokens of N hypotheses and of their references.

    Attributes:
        layout: which texts there are.
        ids: (W,) int32, the number of each word of each text.
        vocabulary: the word of each number.
    """

    layout: CaptionLayout
    ids: np.ndarray
    vocabulary: list[str]

    def texts(self) -> Iterator[list[int]]:
        """The numbers of each text's words."""
        end = 0
        for length in self.layout.lengths.tolist():
            start, end = end, end + length
            yield self.ids[start:end].tolist()

    def joined(self) -> tuple[list[str], list[list[str]]]:
        """Hypotheses, and each clip's references: words between spaces."""
        texts = (" ".join([self.vocabulary[i] for i in ids]) for ids in self.texts())
        clips = [
            [next(texts) for _ in range(num_texts)]
            for num_texts in self.layout.texts_per_clip.tolist()
        ]
        return [said for said, *_ in clips], [wanted for _, *wanted in clips]

    def hypothesis_words(self) -> set[str]:
        """Different words of all hypotheses."""
        return self._words(~self.layout.is_reference)

    def reference_words(self) -> set[str]:
        """Different words of all references."""
        return self._words(self.layout.is_reference)

    def _words(self, is_wanted: np.ndarray) -> set[str]:
        ids = np.unique(self.ids[np.repeat(is_wanted, self.layout.lengths)])
        return {self.vocabulary[i] for i in ids.tolist()}

    def unique_hypothesis_share(self) -> float:
        """Different hypotheses divided by hypotheses."""
        pairs = zip(self.texts(), self.layout.is_reference.tolist(), strict=True)
        different = {tuple(ids) for ids, is_reference in pairs if not is_reference}
        return len(different) / self.layout.num_clips


def number_tokens(
    hypotheses: Sequence[Text],
    references: Sequence[Sequence[Text]],
    tokenize: Callable[[Text], Iterable[str]],
) -> CaptionTokens:
    """Cut texts into words and number the words.

    Args:
        hypotheses: one text per clip.
        references: the reference texts of each clip, at least one.
        tokenize: a text -> its words.
    """
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    ids, lengths = array("i"), array("q")
    clips = zip(hypotheses, references, strict=True)
    for text in chain.from_iterable((said, *wanted) for said, wanted in clips):
        before = len(ids)
        ids.extend(map(numbers.__getitem__, tokenize(text)))
        lengths.append(len(ids) - before)
    texts_per_clip = np.array([1 + len(texts) for texts in references], dtype=np.int64)
    layout = CaptionLayout(texts_per_clip, np.array(lengths, dtype=np.int64))
    return CaptionTokens(layout, np.array(ids, dtype=np.int32), list(numbers))
