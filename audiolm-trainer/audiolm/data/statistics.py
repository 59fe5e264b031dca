"""What is in an annotation: counts and hours per task and corpus, lengths, words.

In: an annotation, read row by row. Out: `AnnotationStatistics`. Lengths come from `duration`, and
where that is missing and a prefix is given, from the audio files' headers.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from audiolm.audio.loading import AudioError, audio_seconds
from audiolm.data.annotations import resolve_audio_path
from audiolm.data.clips import read_clip
from audiolm.data.entries import Entry
from audiolm.data.identity import clean_path, list_texts, normalise_text
from audiolm.data.reshaping import iterate_checked

NUM_HEADER_THREADS = 8
CHUNK_ENTRIES = 1024
LAST_SECOND_BIN = 31  # 30 s and more
LAST_WORD_BIN = 60


@dataclass
class GroupStatistics:
    """Of the entries of one task, or one corpus.

    Attributes:
        num_entries: entries.
        num_with_seconds: those whose length is known.
        seconds: their length together.
        num_texts: reference texts.
        num_words: words in them.
        vocabulary: word -> number of times.
        second_bins: whole seconds -> entries; the last bin is open.
        word_bins: words of a text -> texts; the last bin is open.
    """

    num_entries: int = 0
    num_with_seconds: int = 0
    seconds: float = 0.0
    num_texts: int = 0
    num_words: int = 0
    vocabulary: Counter[str] = field(default_factory=Counter)
    second_bins: Counter[int] = field(default_factory=Counter)
    word_bins: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Entry, seconds: float | None, words_of_texts: list[list[str]]) -> None:
        """Count an entry."""
        self.num_entries += 1
        if seconds is not None:
            self.num_with_seconds += 1
            self.seconds += seconds
            self.second_bins[min(int(seconds), LAST_SECOND_BIN)] += 1
        for words in words_of_texts:
            self.num_texts += 1
            self.num_words += len(words)
            self.word_bins[min(len(words), LAST_WORD_BIN)] += 1
            self.vocabulary.update(words)


@dataclass
class AnnotationStatistics:
    """Of a whole annotation, and its parts."""

    all: GroupStatistics = field(default_factory=GroupStatistics)
    by_task: dict[str, GroupStatistics] = field(default_factory=dict)
    by_corpus: dict[str, GroupStatistics] = field(default_factory=dict)


def compute_statistics(
    path: str | Path,
    *,
    prefix: str | None = None,
    report_progress: Callable[[int], None] = lambda num_entries: None,
) -> AnnotationStatistics:
    """Count everything in an annotation.

    Args:
        path: the annotation.
        prefix: folder of the audio; None: lengths that are not annotated stay unknown.
        report_progress: called with the number of entries so far.

    Raises:
        UserError: the annotation is malformed.
    """
    statistics = AnnotationStatistics()
    entries = iterate_checked(path)
    with ThreadPoolExecutor(NUM_HEADER_THREADS) as pool:
        while chunk := list(itertools.islice(entries, CHUNK_ENTRIES)):
            lengths = pool.map(lambda entry: _find_seconds(entry, prefix), chunk)
            for entry, seconds in zip(chunk, lengths, strict=True):
                task = entry.get("task") or "asr"
                words = [normalise_text(text).split() for text in list_texts(entry)]
                groups = (
                    statistics.all,
                    statistics.by_task.setdefault(task, GroupStatistics()),
                    statistics.by_corpus.setdefault(name_corpus(entry), GroupStatistics()),
                )
                for group in groups:
                    group.add(entry, seconds, words)
            report_progress(statistics.all.num_entries)
    return statistics


def name_corpus(entry: Entry) -> str:
    """The entry's `corpus`, else the first folder of its path."""
    if entry.get("corpus"):
        return str(entry["corpus"])
    folder, slash, _ = clean_path(entry["path"]).partition("/")
    return folder if slash else "(no folder)"


def _find_seconds(entry: Entry, prefix: str | None) -> float | None:
    clip = read_clip(0, entry)
    if clip.seconds is not None or prefix is None:
        return clip.seconds
    try:
        return audio_seconds(resolve_audio_path(prefix, clip.path), clip.span)
    except AudioError:
        return None
