"""Results of a check on disk, so that an interrupted check goes on where it stopped.

In: `ClipFacts`. Out: a JSON-lines file beside the annotation; its first line says what was checked.
A finished check removes it.
"""

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
        is_going_on = self._path.is_file() and self._is_about_this(self._path.open("rb").readline())
        try:
            self._file = self._path.open("a" if is_going_on else "w", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; say with --state where the state of "
                "the check may be kept"
            ) from error
        if not is_going_on:
            self._file.write(json.dumps(self._about) + "\n")
        return self

    def add(self, results: list[ClipFacts]) -> None:
        """Keep what is known of the next clips."""
        assert self._file is not None
        self._file.writelines(
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
            + "\n"
            for facts in results
        )
        self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None:
            self._path.unlink()

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
