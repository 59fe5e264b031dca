"""What every importer needs: its options, the rows it gives, CSV tables, and finding audio by name.

An importer is a function `(source, options) -> rows`. It yields annotation entries whose `path` is
the absolute path of the audio file; `importing.py` does what is the same for all corpora.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from audiolm.data.entries import Entry
from audiolm.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".aiff")
MAX_SHOWN_NAMES = 5
T = TypeVar("T")


@dataclass(frozen=True)
class ImportOptions:
    """What the user may say about a corpus.

    Attributes:
        parts: subsets to take, by the corpus's own names; empty: all there are.
        audio_dir: folder of the audio files, where it is not the corpus's usual one.
        audio_name: file name of a clip's audio without suffix, such as
            "{youtube_id}_{start_time}"; empty: the usual names are tried.
        columns: annotation key -> column names, for tables whose columns are named otherwise.
        keeps_case: leave the upper case of speech corpora as it is.
        keeps_punctuation: write GigaSpeech's spoken punctuation as marks instead of dropping it.
        skip: called with the reason for everything the corpus holds that becomes no entry.
        extract_dir: folder to write audio into that the corpus holds in its tables.
    """

    parts: tuple[str, ...] = ()
    audio_dir: Path | None = None
    audio_name: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    keeps_case: bool = False
    keeps_punctuation: bool = False
    skip: Callable[[str], None] = lambda reason: None
    extract_dir: Path | None = None


@dataclass(frozen=True)
class CorpusKind:
    """A corpus that can be imported.

    Attributes:
        title: its name, for people.
        layout: what its files look like, in a line.
        task: task of its entries, unless the user names another.
        read: the importer.
        recognises: whether a path looks like this corpus.
    """

    title: str
    layout: str
    task: str
    read: Callable[[Path, ImportOptions], Iterator[Entry]]
    recognises: Callable[[Path], bool]


class LayoutError(UserError):
    """The source is not what its importer expects; says what was found instead."""


def describe_source(source: Path) -> str:
    """What is at a path, in a few words, for messages."""
    if not source.exists():
        return "nothing there"
    if source.is_file():
        return f"a file of {source.stat().st_size:,} bytes"
    entries = sorted(source.iterdir())
    if not entries:
        return "an empty folder"
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    more = f" and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else ""
    return f"a folder with {', '.join(names[:MAX_SHOWN_NAMES])}{more}"


def read_header(path: Path) -> list[str]:
    """Column names of a CSV or TSV file; [] when it has none that can be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=find_delimiter(path)), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def find_delimiter(path: Path) -> str:
    """A tab for .tsv files, else a comma."""
    return "\t" if path.suffix.lower() in (".tsv", ".tab") else ","


def iterate_table(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row of a CSV file with a header.

    Raises:
        LayoutError: a required column is missing; the message names those that are there.
        UserError: not UTF-8, not CSV, or a row with another number of cells.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=find_delimiter(path), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise LayoutError(
                    f"{path}: column {', '.join(missing)} is missing; expected "
                    f"{','.join(required)}, found {','.join(header) or 'no header'}"
                )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells, the header has "
                        f"{len(header)}: quote cells that hold a {find_delimiter(path)!r}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: line {reader.line_num + 1}: {error}") from error


class AudioFolder:
    """Audio files below a folder, found by their names without suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[str, Path] = {}
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES:
                    self._by_stem.setdefault(stem, Path(parent, name))

    def find(self, *stems: str) -> Path:
        """The first of the names that is there; where the first would be if none is."""
        for stem in stems:
            if stem in self._by_stem:
                return self._by_stem[stem]
        return self.folder / f"{stems[0]}.wav"


def find_audio_dir(base: Path, names: Sequence[str], options: ImportOptions) -> Path:
    """The folder the user named, else the first of `names` below `base` that is there, else it.

    Raises:
        UserError: the user named a folder that is not there.
    """
    if options.audio_dir is not None:
        if not options.audio_dir.is_dir():
            raise UserError(f"--audio-dir: no folder at {options.audio_dir}")
        return options.audio_dir
    return next((base / name for name in names if (base / name).is_dir()), base)


def choose_parts(found: dict[str, T], options: ImportOptions, source: Path) -> dict[str, T]:
    """The files of the parts that the user wants, out of those found (part -> files).

    Raises:
        UserError: a part that is not there, or several without the user having chosen.
    """
    unknown = [part for part in options.parts if part not in found]
    if unknown or (len(found) > 1 and not options.parts):
        what = f"no part {', '.join(unknown)}" if unknown else "several parts"
        raise UserError(f"{source} has {what}; choose with --part among {', '.join(sorted(found))}")
    return {part: found[part] for part in options.parts or found}
