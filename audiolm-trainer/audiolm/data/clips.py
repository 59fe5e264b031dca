"""One clip: what an annotation's entry says about it.

In: an entry (a JSON object). Out: `Clip`, or what is wrong with the entry.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from audiolm.audio.loading import WHOLE_FILE, Span

DEFAULT_TASK = "asr"
MAX_OFFSET_SECONDS = 1e9
MAX_SHARD_BYTES = 1 << 50


class Stored(NamedTuple):
    """Where in a shard (a tar file) a clip's audio is."""

    shard: str  # path as written in the annotation, below the prefix
    offset_bytes: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One annotation entry.

    Attributes:
        index: position in the file, from 0.
        path: audio file as written in the annotation; see `resolve_audio_path`.
        texts: reference texts; empty when the entry has none.
        task: task name, a key of the prompt files.
        question: what a prompt's `{}` is filled with.
        testset_id: submission id, such as `test0000`.
        expand_wav: audio files to append, written like `path`.
        seconds: length of the clip as annotated (`duration` or `seconds`), if it is.
        source: name of the annotation file, where clips of several come together.
        offset: where in its file the clip starts, in seconds; None when it is the whole file,
            whatever `seconds` says.
        stored: where its audio is when it is no file of its own; `path` is then but a name.
    """

    index: int
    path: str
    texts: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    question: str = ""
    testset_id: str | None = None
    expand_wav: tuple[str, ...] = ()
    seconds: float | None = None
    source: str = ""
    offset: float | None = None
    stored: Stored | None = None

    @property
    def span(self) -> Span:
        """The part of the file that the clip is."""
        return WHOLE_FILE if self.offset is None else Span(self.offset, self.seconds)

    @property
    def name(self) -> str:
        """The path, and which part of the file where it is not all of it."""
        if self.offset is None:
            return self.path
        end = "" if self.seconds is None else _format_seconds(self.offset + self.seconds)
        return f"{self.path}@{_format_seconds(self.offset)}-{end}"

    @property
    def place(self) -> str:
        """Where its entry is, for messages: position, path, and id where it has one."""
        testset_id = f", {self.testset_id}" if self.testset_id else ""
        entry = f"annotation[{self.index}] ({self.name}{testset_id})"
        return f"{self.source}: {entry}" if self.source else entry


def _format_seconds(seconds: float) -> str:
    """Milliseconds, without zeros at the end."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


class IndexedClips(Sequence[Clip]):
    """The clips of a large annotation: kept on disk, with what is true of all of them at hand.

    Attributes:
        tasks: the tasks that occur.
        has_all_texts: whether every clip has a reference text.
        shard_ends: shard -> the last byte that a clip needs of it.
    """

    tasks: tuple[str, ...]
    has_all_texts: bool
    shard_ends: dict[str, int]

    @abstractmethod
    def load_seconds(self) -> np.ndarray:
        """(N,) float32: annotated length of each clip, NaN where there is none."""

    @abstractmethod
    def load_task_numbers(self) -> np.ndarray:
        """(N,) integers: position in `tasks` of each clip's task."""


def collect_tasks(clips: Sequence[Clip]) -> set[str]:
    """The tasks that occur."""
    return set(clips.tasks) if isinstance(clips, IndexedClips) else {clip.task for clip in clips}


def load_seconds(clips: Sequence[Clip]) -> np.ndarray:
    """(N,) floats: annotated length of each clip, NaN where there is none."""
    if isinstance(clips, IndexedClips):
        return clips.load_seconds()
    return np.array([np.nan if clip.seconds is None else clip.seconds for clip in clips])


def group_by_task(clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """Task -> rising positions of its clips; tasks in the order in which they come first."""
    if isinstance(clips, IndexedClips):
        names, numbers = clips.tasks, clips.load_task_numbers()
    else:
        names = tuple(dict.fromkeys(clip.task for clip in clips))
        number_of = {task: number for number, task in enumerate(names)}
        numbers = np.array([number_of[clip.task] for clip in clips], dtype=np.int64)
    groups = {names[number]: np.flatnonzero(numbers == number) for number in np.unique(numbers)}
    return dict(sorted(groups.items(), key=lambda item: item[1][0]))


def collect_shard_ends(clips: Sequence[Clip]) -> dict[str, int]:
    """Shard -> the last byte that a clip needs of it."""
    if isinstance(clips, IndexedClips):
        return clips.shard_ends
    ends: dict[str, int] = {}
    for clip in clips:
        if clip.stored is not None:
            shard, offset_bytes, num_bytes = clip.stored
            ends[shard] = max(ends.get(shard, 0), offset_bytes + num_bytes)
    return ends


def find_problem(row: Any) -> str | None:
    """The first mistake in an annotation entry, with its fix, or None."""
    if not isinstance(row, dict):
        return f'must be an object like {{"path": "a.wav", "text": "..."}}, not {row!r}'
    if not isinstance(row.get("path"), str) or not row["path"].strip("/"):
        found = f"is {row['path']!r}" if "path" in row else "is missing"
        return f'"path" {found}; give the audio file\'s path as a string'
    text = row.get("text")
    if not (text is None or isinstance(text, str) or _is_texts(text)):
        return f'"text" is {text!r}; give a string or a non-empty list of strings'
    for key in ("task", "Q", "testset_id"):
        if not isinstance(row.get(key), str | None):
            return f'"{key}" is {row[key]!r}; give a string'
    expand_wav = row.get("expand_wav")
    if expand_wav and not _is_texts(expand_wav):
        return f'"expand_wav" is {expand_wav!r}; give a list of audio paths'
    if row.get("shard") is not None and not _is_stored(row):
        return '"shard" needs a path, "shard_offset" and "shard_bytes", which shard writes'
    if row.get("offset") is not None:
        if not _is_seconds(row["offset"]):
            return f'"offset" is {row["offset"]!r}; give the clip\'s start in its file in seconds'
        seconds = _annotated_seconds(row)
        if seconds is not None and not (_is_seconds(seconds) and seconds > 0):
            return f'"duration" is {seconds!r}; a clip with an "offset" needs its length in seconds'
    return None


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < MAX_OFFSET_SECONDS


def _is_stored(row: dict[str, Any]) -> bool:
    places = [row.get("shard_offset"), row.get("shard_bytes")]
    are_counts = all(type(place) is int and 0 <= place < MAX_SHARD_BYTES for place in places)
    return isinstance(row["shard"], str) and bool(row["shard"].strip("/")) and are_counts


def _annotated_seconds(row: dict[str, Any]) -> Any:
    return row.get("duration", row.get("seconds"))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(item, str) for item in value)


def read_clip(index: int, row: dict[str, Any]) -> Clip:
    """The clip of an entry that `find_problem` has nothing against."""
    text = row.get("text")
    seconds, offset = _annotated_seconds(row), row.get("offset")
    return Clip(
        index=index,
        path=row["path"],
        texts=() if text is None else (text,) if isinstance(text, str) else tuple(text),
        task=row.get("task") or DEFAULT_TASK,
        question=row.get("Q") or "",
        testset_id=row.get("testset_id"),
        expand_wav=tuple(row.get("expand_wav") or ()),
        seconds=float(seconds) if _is_seconds(seconds) and seconds > 0 else None,
        offset=None if offset is None else float(offset),
        stored=_read_stored(row),
    )


def _read_stored(row: dict[str, Any]) -> Stored | None:
    if row.get("shard") is None:
        return None
    return Stored(row["shard"], row["shard_offset"], row["shard_bytes"])
