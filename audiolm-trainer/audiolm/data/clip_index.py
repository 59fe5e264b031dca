"""Large annotations on disk: any clip in a moment, and no more memory for more clips.

In: an annotation. Out: `ClipIndex`, a sequence of `Clip`s that holds none of them. The first use
writes an index beside the annotation (or into the user's cache where that cannot be written to);
it is used from then on until the annotation changes:

    NAME.index/rows.arrow      the clips in small record batches, of which one is read at a time
    NAME.index/seconds.npy     (N,) float32 annotated lengths; NaN where there is none
    NAME.index/tasks.npy       (N,) int32 numbers of the clips' tasks
    NAME.index/about.json      which annotation it is of, and what is true of all clips together
"""

import fcntl
import hashlib
import itertools
import json
import math
import operator
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow
import pyarrow.ipc
from tqdm import tqdm

from audiolm.data.annotations import iterate_clips
from audiolm.data.clips import Clip, IndexedClips, Stored
from audiolm.data.outputs import whole_folder

INDEX_VERSION = 1
ROWS_PER_BATCH = 256  # a read from disk, some 40 kB
ROWS_NAME, ABOUT_NAME = "rows.arrow", "about.json"
SECONDS_NAME, TASKS_NAME = "seconds.npy", "tasks.npy"
_TEXTS = pyarrow.list_(pyarrow.string())
_SCHEMA = pyarrow.schema(
    {
        "path": pyarrow.string(),
        "texts": _TEXTS,
        "task": pyarrow.string(),
        "question": pyarrow.string(),
        "testset_id": pyarrow.string(),
        "expand_wav": _TEXTS,
        "seconds": pyarrow.float64(),
        "offset": pyarrow.float64(),
        "shard": pyarrow.string(),
        "shard_offset": pyarrow.int64(),
        "shard_bytes": pyarrow.int64(),
    }
)


class ClipIndex(IndexedClips):
    """The clips of an annotation, read from its index; may be handed to other processes."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
        self.tasks = tuple(about["tasks"])
        self.has_all_texts = about["has_all_texts"]
        self.shard_ends = about["shard_ends"]
        self._num_clips: int = about["num_clips"]
        self._rows_per_batch: int = about["rows_per_batch"]
        self._folder = folder
        self._reader: Any = None
        self._process = 0
        self._batch: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_process": 0, "_batch": (-1, None)}

    def load_seconds(self) -> np.ndarray:
        """(N,) float32: annotated length of each clip, NaN where there is none."""
        return np.load(self._folder / SECONDS_NAME)

    def load_task_numbers(self) -> np.ndarray:
        """(N,) int32: position in `tasks` of each clip's task."""
        return np.load(self._folder / TASKS_NAME)

    def __len__(self) -> int:
        return self._num_clips

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = operator.index(index)
        position += len(self) if position < 0 else 0
        if not 0 <= position < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number, row = divmod(position, self._rows_per_batch)
        columns = self._read_batch(number).columns
        return _read_clip(position, [column[row].as_py() for column in columns])

    def __iter__(self) -> Iterator[Clip]:
        position = 0
        for number in range(-(-len(self) // self._rows_per_batch)):
            columns = [column.to_pylist() for column in self._read_batch(number).columns]
            for values in zip(*columns, strict=True):
                yield _read_clip(position, values)
                position += 1

    def _read_batch(self, number: int) -> pyarrow.RecordBatch:
        if self._process != os.getpid():  # unpickled or forked: a file of its own
            options = pyarrow.ipc.IpcReadOptions(use_threads=False)
            file = pyarrow.OSFile(str(self._folder / ROWS_NAME))
            self._reader = pyarrow.ipc.open_file(file, options=options)
            self._process, self._batch = os.getpid(), (-1, None)
        if self._batch[0] != number:
            self._batch = number, self._reader.get_batch(number)
        return self._batch[1]


def open_index(path: str | Path) -> ClipIndex:
    """The index of an annotation, made if there is none or the annotation has changed since.

    Of several processes that ask for it at once, one makes it and the others wait.

    Raises:
        UserError: the annotation is malformed, or the index cannot be written.
    """
    path = Path(os.path.abspath(path))
    identity = _identify(path)
    places = [path.with_name(f"{path.name}.index"), _name_cached(path)]
    for place in places:
        if _is_index_of(place, identity):
            return ClipIndex(place)
    place = places[0] if os.access(path.parent, os.W_OK) else places[1]
    with open(_name_lock(path), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_index_of(place, identity):
            with whole_folder(place, overwrite=True) as folder:
                about = _write_index(folder, path)
                text = json.dumps({**identity, **about})
                (folder / ABOUT_NAME).write_text(text, encoding="utf-8")
    return ClipIndex(place)


def _identify(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"version": INDEX_VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_index_of(folder: Path, identity: dict[str, Any]) -> bool:
    try:
        about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and identity.items() <= about.items()


def _name_cached(path: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "audiolm" / "indexes" / hashlib.sha256(str(path).encode()).hexdigest()[:24]


def _name_lock(path: Path) -> Path:
    name = hashlib.sha256(str(path).encode()).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"audiolm-index-{os.getuid()}-{name}.lock"


def _write_index(folder: Path, path: Path) -> dict[str, Any]:
    """Write the two large files; returns what is true of all clips together."""
    tasks: dict[str, int] = {}
    seconds, numbers = array("f"), array("i")
    shard_ends: dict[str, int] = {}
    has_all_texts, num_clips = True, 0
    clips = iterate_clips(path)
    with (
        pyarrow.ipc.new_file(str(folder / ROWS_NAME), _SCHEMA) as writer,
        tqdm(desc=f"index {path.name}", unit=" clips", disable=None, leave=False) as bar,
    ):
        while chunk := list(itertools.islice(clips, ROWS_PER_BATCH)):
            writer.write_batch(_build_batch(chunk))
            for clip in chunk:
                seconds.append(math.nan if clip.seconds is None else clip.seconds)
                numbers.append(tasks.setdefault(clip.task, len(tasks)))
                has_all_texts &= bool(clip.texts)
                if clip.stored is not None:
                    end = clip.stored.offset_bytes + clip.stored.num_bytes
                    shard_ends[clip.stored.shard] = max(shard_ends.get(clip.stored.shard, 0), end)
            num_clips += len(chunk)
            bar.update(len(chunk))
    np.save(folder / SECONDS_NAME, np.frombuffer(seconds, dtype=np.float32))
    np.save(folder / TASKS_NAME, np.frombuffer(numbers, dtype=np.int32))
    return {
        "num_clips": num_clips,
        "rows_per_batch": ROWS_PER_BATCH,
        "tasks": list(tasks),
        "has_all_texts": has_all_texts,
        "shard_ends": shard_ends,
    }


def _build_batch(clips: list[Clip]) -> pyarrow.RecordBatch:
    stored = [clip.stored or (None, None, None) for clip in clips]
    columns: list[list[Any]] = [
        [clip.path for clip in clips],
        [clip.texts for clip in clips],
        [clip.task for clip in clips],
        [clip.question for clip in clips],
        [clip.testset_id for clip in clips],
        [clip.expand_wav for clip in clips],
        [clip.seconds for clip in clips],
        [clip.offset for clip in clips],
        *([place[part] for place in stored] for part in range(3)),
    ]
    arrays = [
        pyarrow.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _read_clip(index: int, values: Sequence[Any]) -> Clip:
    path, texts, task, question, testset_id, extra, seconds, offset, *place = values
    return Clip(
        index=index,
        path=path,
        texts=tuple(texts),
        task=task,
        question=question,
        testset_id=testset_id,
        expand_wav=tuple(extra),
        seconds=seconds,
        offset=offset,
        stored=None if place[0] is None else Stored(*place),
    )
