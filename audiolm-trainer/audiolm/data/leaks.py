"""What a training set and a test set have in common: audio files, samples, texts.

In: two annotations. Out: `LeakReport`. The smaller annotation is held as numbers, the other is read
row by row; samples of the larger are only decoded where a clip of the same length is in the
smaller.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from audiolm.audio.loading import AudioError, AudioSource, audio_seconds
from audiolm.data.checking.clips import compute_fingerprint
from audiolm.data.clips import Clip, read_clip
from audiolm.data.entries import Entry
from audiolm.data.identity import clean_path, hash_parts, list_texts, normalise_text
from audiolm.data.parallel import map_in_processes
from audiolm.data.reshaping import iterate_checked
from audiolm.data.shard_reading import ShardStore
from audiolm.errors import UserError

LeakKind = Literal["path", "audio", "text"]
LEAK_KINDS: tuple[LeakKind, ...] = ("path", "audio", "text")
LENGTH_DIGITS = 2  # of the seconds that two equal clips must share


class Leak(NamedTuple):
    """One thing that both annotations have."""

    kind: LeakKind
    index_a: int  # of the last entry of A that has it
    index_b: int
    detail: str  # the path in B, or the text


@dataclass
class LeakReport:
    """What was found.

    Attributes:
        num_entries: of A and of B.
        leaks: one per entry of B and kind.
        num_unreadable: clips whose samples could not be compared, of A and B together.
    """

    num_entries: tuple[int, int] = (0, 0)
    leaks: list[Leak] = field(default_factory=list)
    num_unreadable: int = 0

    def count(self, kind: LeakKind) -> int:
        """Entries of B that leak in this way."""
        return sum(leak.kind == kind for leak in self.leaks)


class _Row(NamedTuple):
    """What is kept of an entry."""

    index: int
    keys: dict[LeakKind, list[int]]
    is_unreadable: bool


def find_leaks(
    path_a: str | Path,
    path_b: str | Path,
    *,
    prefix_a: str = "",
    prefix_b: str = "",
    kinds: Sequence[LeakKind] = LEAK_KINDS,
    min_words: int = 1,
    num_processes: int = 1,
    report_progress: Callable[[int], None] = lambda num_entries: None,
) -> LeakReport:
    """Compare two annotations.

    Args:
        path_a, path_b: for instance the training and the test annotation.
        prefix_a, prefix_b: folders that their paths start from.
        kinds: "path": the same file under the prefix (any part of it); "audio": the same samples;
            "text": the same words.
        min_words: texts with fewer words are not compared.
        num_processes: processes that decode.
        report_progress: called with the number of entries so far, of A and B together.

    Raises:
        UserError: an annotation is malformed, or a path leads out of its prefix.
    """
    sides = {"a": (path_a, prefix_a), "b": (path_b, prefix_b)}
    sizes = {name: sum(1 for _ in iterate_checked(path)) for name, (path, _) in sides.items()}
    small, large = ("b", "a") if sizes["b"] <= sizes["a"] else ("a", "b")
    report = LeakReport(num_entries=(sizes["a"], sizes["b"]))
    lengths = _measure_lengths(*sides[small]) if "audio" in kinds else frozenset()
    num_done = 0

    def read(name: str) -> Iterator[_Row]:
        nonlocal num_done
        path, prefix = sides[name]
        work = functools.partial(
            describe_chunk, prefix, tuple(kinds), min_words, None if name == small else lengths
        )
        for rows in map_in_processes(work, enumerate(iterate_checked(path)), num_processes):
            yield from rows
            num_done += len(rows)
            report_progress(num_done)

    known: dict[tuple[LeakKind, int], list[int]] = {}
    for row in read(small):
        report.num_unreadable += row.is_unreadable
        for kind, keys in row.keys.items():
            for key in keys:
                known.setdefault((kind, key), []).append(row.index)
    found: dict[tuple[LeakKind, int], int] = {}  # (kind, position in B) -> position in A
    for row in read(large):
        report.num_unreadable += row.is_unreadable
        for kind, keys in row.keys.items():
            for key in keys:
                for other in known.get((kind, key), ()):
                    index_a, index_b = (other, row.index) if small == "a" else (row.index, other)
                    found[kind, index_b] = index_a
    report.leaks = _name_leaks(found, path_b)
    return report


def describe_chunk(
    prefix: str,
    kinds: tuple[LeakKind, ...],
    min_words: int,
    lengths: frozenset[float] | None,
    rows: list[tuple[int, Entry]],
) -> list[_Row]:
    """The numbers by which entries are compared: what a process is given at a time.

    `lengths` are those of the other annotation's clips; None: all samples are read.
    """
    described = []
    for index, entry in rows:
        keys: dict[LeakKind, list[int]] = {}
        is_unreadable = False
        if "path" in kinds:
            paths = [entry["path"], *(entry.get("expand_wav") or ())]
            keys["path"] = [hash_parts(clean_path(path)) for path in paths]
        if "text" in kinds:
            texts = (normalise_text(text) for text in list_texts(entry))
            keys["text"] = [hash_parts(text) for text in texts if len(text.split()) >= min_words]
        if "audio" in kinds:
            try:
                keys["audio"] = _fingerprint(read_clip(index, entry), prefix, lengths)
            except AudioError:
                is_unreadable = True
        described.append(_Row(index, keys, is_unreadable))
    return described


def _fingerprint(clip: Clip, prefix: str, lengths: frozenset[float] | None) -> list[int]:
    path = _find_audio(clip, prefix)
    if lengths is not None and round(audio_seconds(path, clip.span), LENGTH_DIGITS) not in lengths:
        return []
    fingerprint = compute_fingerprint(path, clip.span)
    return [fingerprint] if fingerprint else []  # silence is no leak


def _find_audio(clip: Clip, prefix: str) -> AudioSource:
    try:
        return ShardStore(prefix).list_sources(clip, prefix)[0]
    except AudioError:
        raise  # counted; what else can be wrong is the annotation's mistake
    except UserError as error:
        raise UserError(f"{clip.place}: {error}") from error


def _measure_lengths(path: str | Path, prefix: str) -> frozenset[float]:
    lengths = set()
    for index, entry in enumerate(iterate_checked(path)):
        clip = dataclasses.replace(read_clip(index, entry), source=str(path))
        try:
            source = _find_audio(clip, prefix)
            seconds = audio_seconds(source, clip.span)
        except AudioError:
            continue  # counted when its samples are read
        # Rounding may fall either way where two formats tell the same length a hair apart.
        step = 10.0**-LENGTH_DIGITS
        lengths |= {round(seconds + shift, LENGTH_DIGITS) for shift in (-step, 0.0, step)}
    return frozenset(lengths)


def _name_leaks(found: dict[tuple[LeakKind, int], int], path_b: str | Path) -> list[Leak]:
    wanted: Iterable[tuple[LeakKind, int]] = sorted(found, key=lambda key: (key[1], key[0]))
    entries = {index for _, index in wanted}
    details: dict[int, Entry] = {
        index: entry for index, entry in enumerate(iterate_checked(path_b)) if index in entries
    }
    return [
        Leak(kind, found[kind, index], index, _describe(kind, details[index]))
        for kind, index in wanted
    ]


def _describe(kind: LeakKind, entry: Entry) -> str:
    texts = list_texts(entry)
    return texts[0] if kind == "text" and texts else entry["path"]
