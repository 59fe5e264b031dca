"""Annotation entries as they are in the file: read one by one, and written back.

In and out: `.json` (`{"annotation": [...]}`), `.jsonl` and `.jsonl.gz` (an entry a line). The data
commands work on these rows, so that keys the toolkit does not know stay; training and evaluation
read `annotations.Clip`.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from audiolm.data.json_stream import (
    LINES_SUFFIXES,
    is_lines_file,
    iterate_json_lines,
    iterate_json_list,
)
from audiolm.data.outputs import check_output, whole_file
from audiolm.errors import UserError

Entry = dict[str, Any]
ANNOTATION_KEY = "annotation"
FIRST_KEYS = ("path", "text", "task", "Q", "testset_id", "offset", "duration")
MAX_TESTSET_IDS = 10_000  # `test` and four digits


class NoEntryError(UserError):
    """There is nothing to write."""


def iterate_entries(path: str | Path) -> Iterator[Any]:
    """What an annotation holds, in its order and unchecked; one entry is in memory at a time.

    Raises:
        UserError: the file is missing, unreadable or malformed (with line and column), or empty.
    """
    if is_lines_file(path):
        entries = iterate_json_lines(path, ANNOTATION_KEY)
    else:
        entries = iterate_json_list(path, ANNOTATION_KEY, ANNOTATION_KEY)
    is_empty = True
    for entry in entries:
        is_empty = False
        yield entry
    if is_empty:
        example = '{"path": "a.wav", "text": "...", "task": "asr"}'
        raise UserError(
            f"annotation {path} is an empty list, there is no clip in it; "
            f"add entries like {example}, or name another file"
        )


def check_annotation_output(
    path: str | Path, *, overwrite: bool = False, sources: Sequence[str | Path] = ()
) -> None:
    """`check_output`, and that the name says which format is wanted.

    Raises:
        UserError: as `check_output`; or another suffix.
    """
    if not is_lines_file(path) and Path(path).suffix.lower() != ".json":
        allowed = ", ".join((".json", *LINES_SUFFIXES[:2]))
        raise UserError(f"{path}: an annotation's name must end with one of {allowed}")
    check_output(path, overwrite=overwrite, sources=sources)


def save_entries(
    path: str | Path,
    entries: Iterable[Entry],
    *,
    overwrite: bool = False,
    sources: Sequence[str | Path] = (),
) -> int:
    """Write an annotation, whole or not at all; returns the number of entries.

    The same entries give the same bytes.

    Args:
        path: the file; its suffix chooses the format.
        entries: JSON objects.
        overwrite: whether a file that is there may be replaced.
        sources: files that must not be.

    Raises:
        NoEntryError: there is no entry.
        UserError: as `check_annotation_output`; or it cannot be written.
    """
    check_annotation_output(path, overwrite=overwrite, sources=sources)
    with whole_file(path, overwrite=overwrite, sources=sources) as temporary:
        return write_entries(temporary, entries, path)


def write_entries(temporary: Path, entries: Iterable[Entry], path: str | Path) -> int:
    """Write to a temporary file what shall become the annotation `path`; as `save_entries`."""
    if str(path).lower().endswith(".gz"):
        with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            num_entries = _write_lines(packed, entries)
    else:
        with temporary.open("wb") as file:
            write = _write_lines if is_lines_file(path) else _write_list
            num_entries = write(file, entries)
    if not num_entries:
        raise NoEntryError(f"no entry is left to write to {path}")
    return num_entries


def number_entries(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries with testset_ids in their order.

    Raises:
        UserError: there are more than a submission can hold.
    """
    for number, entry in enumerate(entries):
        if number >= MAX_TESTSET_IDS:
            raise UserError(
                f"more than {MAX_TESTSET_IDS:,} entries: testset_ids have four digits; "
                "make the set smaller, or leave the ids out"
            )
        yield order_keys({**entry, "testset_id": f"test{number:04d}"})


def order_keys(entry: Entry) -> Entry:
    """The same entry, with the keys that every annotation has first."""
    first = {key: entry[key] for key in FIRST_KEYS if key in entry}
    return {**first, **entry}


def _dump(entry: Entry) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape and UTF-8 not
        return json.dumps(entry).encode("ascii")


def _write_lines(file: Any, entries: Iterable[Entry]) -> int:
    num_entries = 0
    for entry in entries:
        file.write(_dump(entry) + b"\n")
        num_entries += 1
    return num_entries


def _write_list(file: Any, entries: Iterable[Entry]) -> int:
    num_entries = 0
    file.write(b'{"' + ANNOTATION_KEY.encode() + b'": [')
    for entry in entries:
        file.write((b",\n" if num_entries else b"\n") + _dump(entry))
        num_entries += 1
    file.write(b"\n]}\n")
    return num_entries
