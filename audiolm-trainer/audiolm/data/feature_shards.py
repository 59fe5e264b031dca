"""The files of a feature cache: outputs of the frozen encoders, many clips to a file.

In: encoder outputs, clip by clip. Out: the same, read back one at a time. `shard_N.bin` holds the
outputs of some clips end to end and is memory-mapped; `shard_N.json` says whose they are and where,
and is written last: a shard without it does not count. Clips whose audio cannot be used are
remembered with the reason.

Shapes: T Whisper frames of width C, P BEATs patches of width D.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiolm.audio.loading import AudioError
from audiolm.errors import UserError

LOCK_SECONDS = 300.0  # how long a run waits for another that fills the same folder
RECORD = np.dtype(
    [
        ("shard", np.int32),
        ("offset", np.int64),  # bytes
        ("speech_rows", np.int32),  # T
        ("audio_rows", np.int32),  # P
        ("num_samples", np.int32),  # at 16 kHz
        ("was_truncated", np.bool_),
    ]
)


@dataclass(frozen=True)
class FrameFormat:
    """Number type and widths (C and D; 0: no BEATs) of stored outputs."""

    dtype: torch.dtype
    speech_width: int
    audio_width: int

    def count_bytes(self, speech_rows: int, audio_rows: int) -> int:
        """Size of one clip's outputs."""
        num_values = speech_rows * self.speech_width + audio_rows * self.audio_width
        return num_values * self.dtype.itemsize


class ShardWriter:
    """Writes one shard; it counts from `finish` on, and what a kill leaves of it never does."""

    def __init__(self, folder: Path, number: int, frame_format: FrameFormat) -> None:
        self._path = folder / f"shard_{number:06d}.bin"
        self._format = frame_format
        self._clips: list[list[Any]] = []
        self._offset = 0
        with _explained(self._path):
            self._file = _unfinished(self._path).open("wb")

    def add(self, identity: str, item: Mapping[str, Any]) -> None:
        """Store a clip: `speech_frames` (T, C), `audio_frames` (P, D) with BEATs, `num_samples`,
        `was_truncated`."""
        rows = [0, 0]
        parts = (("speech_frames", "speech_width"), ("audio_frames", "audio_width"))
        start = self._offset
        for position, (name, width) in enumerate(parts):
            frames = item.get(name)
            if frames is None:
                continue
            assert frames.dtype == self._format.dtype
            assert frames.shape[1] == getattr(self._format, width)
            rows[position] = len(frames)
            content = frames.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            with _explained(self._path):
                self._file.write(content)
            self._offset += len(content)
        self._clips.append([identity, start, *rows, item["num_samples"], item["was_truncated"]])

    def add_problem(self, identity: str, error: AudioError) -> None:
        """Remember a clip that cannot be used, and why."""
        self._clips.append([identity, error.path, error.problem, error.reason])

    def finish(self) -> None:
        """Put the shard in place, its index last."""
        index = {"num_bytes": self._offset, "clips": self._clips}
        with _explained(self._path):
            _sync(self._file)
            os.replace(_unfinished(self._path), self._path)
            index_path = self._path.with_suffix(".json")
            with _unfinished(index_path).open("w", encoding="utf-8") as file:
                json.dump(index, file)
                _sync(file)
            os.replace(_unfinished(index_path), index_path)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"datasets.feature_cache: cannot write {path}: {error.strerror}; what was finished "
            "before is kept: make room, or give another folder"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete what an interrupted or damaged write left. No other process may be writing."""
    for path in folder.glob("shard_*.tmp"):
        path.unlink()
    for stem in {path.stem for path in folder.glob("shard_*")}:
        index_path = folder / f"{stem}.json"
        if _read_index(index_path) is None:
            index_path.unlink(missing_ok=True)
            index_path.with_suffix(".bin").unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which a process that ends in any way gives back. Waits its turn.

    Raises:
        UserError: another process held it for too long.
    """
    with (folder / "lock").open("w", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise UserError(
                    f"datasets.feature_cache: another run is filling {folder}; start again when it "
                    "has, or give another folder"
                )
            time.sleep(1)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _try_lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_index(path: Path) -> dict[str, Any] | None:
    """A shard's index; None where the shard is not complete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_complete = path.with_suffix(".bin").stat().st_size == content["num_bytes"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return content if is_complete else None


class FeatureStore:
    """The complete shards of a cache folder, by clip identity."""

    def __init__(self, folder: Path, frame_format: FrameFormat) -> None:
        self.folder = folder
        self.format = frame_format
        self.rows: dict[str, int] = {}  # identity -> row of records
        self.problems: dict[int, tuple[Any, ...]] = {}  # row -> arguments of its AudioError
        self.shard_paths: list[Path] = []
        self.last_number = -1
        records: list[tuple[Any, ...]] = []
        for path in sorted(folder.glob("shard_*.json")):
            self.last_number = max(self.last_number, int(path.stem.partition("_")[2]))
            content = _read_index(path)
            for identity, *values in content["clips"] if content is not None else ():
                self.rows[identity] = len(records)
                if isinstance(values[0], str):
                    self.problems[len(records)] = tuple(values)
                    values = [0, 0, 0, 0, False]
                records.append((len(self.shard_paths), *values))
            self.shard_paths.append(path.with_suffix(".bin"))
        self.records = np.array(records, dtype=RECORD)

    def read(self, row: int) -> dict[str, Any]:
        """What was given to `ShardWriter.add`.

        Raises:
            AudioError: the one that the clip was remembered with.
        """
        if row in self.problems:
            raise AudioError(*self.problems[row])
        record = self.records[row]
        speech_rows, audio_rows = int(record["speech_rows"]), int(record["audio_rows"])
        path = self.shard_paths[record["shard"]]
        num_bytes = self.format.count_bytes(speech_rows, audio_rows)
        try:
            mapped = np.memmap(path, np.uint8, "r", int(record["offset"]), (num_bytes,))
        except (OSError, ValueError) as error:
            raise UserError(
                f"datasets.feature_cache: {path} changed while in use ({error}); start again"
            ) from error
        values = torch.from_numpy(np.array(mapped)).view(self.format.dtype)
        speech, audio = values.split(
            [speech_rows * self.format.speech_width, audio_rows * self.format.audio_width]
        )
        item = {
            "speech_frames": speech.view(speech_rows, self.format.speech_width),  # (T, C)
            "num_samples": int(record["num_samples"]),
            "was_truncated": bool(record["was_truncated"]),
        }
        if self.format.audio_width:
            item["audio_frames"] = audio.view(audio_rows, self.format.audio_width)  # (P, D)
        return item
