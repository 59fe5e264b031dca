"""Results of a check on disk, so that an interrupted check goes on where it stopped.

In: `ClipFacts`. Out: a JSON-lines file beside the annotation; its first line says what was checked.
A finished check removes it, and so does one that fails before its first result.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from audiolm.data.checking.problems import ClipFacts, Problem
from audiolm.errors import UserError

JOURNAL_VERSION = 1


class Journal:
    """Facts of the clips checked so far, in the annotation's order."""

    def __init__(self, path: Path, annotation: Path, prefix: str) -> None:
        self._path = path
        status = annotation.stat()
        self._about = {
            "version": JOURNAL_VERSION,
            "annotation": os.path.abspath(annotation),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "prefix": os.path.abspath(prefix) if prefix else "",
        }
        self._file: IO[str] | None = None
        self._has_results = False

    def read(self) -> Iterator[ClipFacts]:
        """What an earlier check of the same file left; nothing if it was of another.

        What follows the last whole line is cut off.
        """
        if not self._path.is_file():
            return
        with self._path.open("rb+") as file:
            if not self._is_about_this(file.readline()):
                return
            place = file.tell()
            for line in file:
                facts = _read_line(line)
                if facts is None:
                    break
                yield facts
                place += len(line)
            file.truncate(place)

    def __enter__(self) -> "Journal":
        self._has_results = self._path.is_file() and self._is_about_this(
            self._path.open("rb").readline()
        )
        try:
            self._file = self._path.open("a" if self._has_results else "w", encoding="utf-8")
        except OSError as error:
            raise self._cannot_write(error) from error
        if not self._has_results:
            self._file.write(json.dumps(self._about) + "\n")
        return self

    def add(self, results: list[ClipFacts]) -> None:
        """Keep what is known of the next clips.

        Raises:
            UserError: the disk is full, or the file cannot be written for another reason.
        """
        assert self._file is not None
        lines = [
            json.dumps(
                [
                    facts.index,
                    facts.problems,
                    facts.fingerprint,
                    round(facts.seconds, 3),
                    facts.rate_hz,
                    facts.num_channels,
                ]
            )
            for facts in results
        ]
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._has_results = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        with contextlib.suppress(OSError):  # of a full disk, which `add` has told
            self._file.close()
        if kind is None or not self._has_results:
            self._path.unlink()

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self._path}: {error.strerror}; say with --state where the state of "
            "the check may be kept"
        )

    def _is_about_this(self, line: bytes) -> bool:
        try:
            return json.loads(line) == self._about
        except ValueError:
            return False


def _read_line(line: bytes) -> ClipFacts | None:
    if not line.endswith(b"\n"):
        return None
    try:
        values: Any = json.loads(line)
        index, problems, *rest = values
        return ClipFacts(index, tuple(Problem(*problem) for problem in problems), *rest)
    except (ValueError, TypeError):
        return None
