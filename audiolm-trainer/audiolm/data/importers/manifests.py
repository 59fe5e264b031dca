"""Manifests of other toolkits, and tables: NeMo's JSON lines, SALMONN's annotation, CSV.

NeMo: a line is `{"audio_filepath", "duration", "text", "offset"}`; paths are absolute or start at
the manifest's folder. SALMONN: `{"annotation": [{"path", "text", "task", "Q"}]}`, the toolkit's own
format. CSV (or TSV): a header and a row per clip; usual column names are known, others are named by
`--columns KEY=COLUMN`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiolm.data.clips import find_problem
from audiolm.data.entries import Entry, iterate_entries
from audiolm.data.importers.sources import (
    AUDIO_SUFFIXES,
    ImportOptions,
    LayoutError,
    describe_source,
    iterate_table,
    read_header,
)
from audiolm.data.json_stream import iterate_json_lines
from audiolm.errors import UserError

NEMO_LAYOUT = 'JSON lines {"audio_filepath", "duration", "text", "offset"}'
SALMONN_LAYOUT = '{"annotation": [{"path", "text", "task", "Q"}]}'
CSV_LAYOUT = "a CSV or TSV file with a header, a column of audio paths and a column of texts"

# Annotation key -> column names that mean it, in tables and data sets.
USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "audio", "audio_path", "audio_filepath", "file", "file_name", "filename",
             "wav", "wav_path"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "caption",
             "captions", "raw_text", "answer"),
    "Q": ("Q", "question"),
    "task": ("task",),
    "testset_id": ("testset_id",),
    "offset": ("offset", "start"),
    "end": ("end",),
    "duration": ("duration", "seconds"),
    "speaker": ("speaker", "speaker_id", "client_id"),
}  # fmt: skip
NUMBER_KEYS = ("offset", "end", "duration")
AUDIO_FOLDERS = ("clips", "audio", "wavs")  # beside a table, as Common Voice has it


def recognises_nemo(source: Path) -> bool:
    """Whether the first line is an object with `audio_filepath`."""
    try:
        with source.open(encoding="utf-8-sig") as file:
            row = json.loads(file.readline(1 << 16))
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "audio_filepath" in row


def recognises_salmonn(source: Path) -> bool:
    """Whether it starts as an annotation does."""
    try:
        with source.open(encoding="utf-8-sig") as file:
            return file.read(200).lstrip().removeprefix("{").lstrip().startswith('"annotation"')
    except (OSError, ValueError):
        return False


def recognises_csv(source: Path) -> bool:
    """Whether it is a table with a column for paths and one for texts."""
    is_table = source.is_file() and source.suffix.lower() in (".csv", ".tsv")
    header = set(read_header(source)) if is_table else set()
    return bool(header & {*USUAL_COLUMNS["path"]} and header & {*USUAL_COLUMNS["text"]})


def read_nemo(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per line; offsets stay, and so do keys that NeMo does not know."""
    _check_is_file(source, "NeMo manifest", NEMO_LAYOUT)
    base = options.audio_dir or source.parent
    for index, row in enumerate(iterate_json_lines(source, "NeMo manifest")):
        place = f"{source}: entry {index}"
        if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
            raise LayoutError(f"{place} is {row!r:.200}; expected {NEMO_LAYOUT}")
        if "shard_id" in row:
            raise LayoutError(
                f"{place} names a shard_id: its audio is in NeMo's tar files; import the plain "
                "manifest, whose files are on disk"
            )
        entry = {"path": str(base / row.pop("audio_filepath")), **row}
        _check_entry(entry, place)
        yield entry


def read_salmonn(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """The entries as they are, with their paths below the audio folder."""
    _check_is_file(source, "SALMONN annotation", SALMONN_LAYOUT)
    base = options.audio_dir or source.parent
    for index, row in enumerate(iterate_entries(source)):
        _check_entry(row, f"{source}: annotation[{index}]")
        extra = row.get("expand_wav") or []
        joined = {"expand_wav": [str(base / path.lstrip("/")) for path in extra]} if extra else {}
        yield {**row, "path": str(base / row["path"].lstrip("/")), **joined}


def read_csv(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per row."""
    _check_is_file(source, "table", CSV_LAYOUT)
    columns = find_columns(read_header(source), options, str(source), needed=("path", "text"))
    folders = [options.audio_dir] if options.audio_dir else [source.parent]
    folders += [source.parent / name for name in AUDIO_FOLDERS if options.audio_dir is None]
    names = [name for group in columns.values() for name in group]
    for line, row in iterate_table(source, names):
        cells = {key: [row[name] for name in group] for key, group in columns.items()}
        entry = build_entry(cells, f"{source}: line {line}")
        entry["path"] = str(_find_audio(entry["path"], folders))
        yield entry


def find_columns(
    header: list[str], options: ImportOptions, place: str, needed: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Annotation key -> columns of a table, as the user names them or by their usual names.

    Raises:
        UserError: a named column is not there, or a needed one cannot be found.
    """
    present = [name.strip() for name in header]
    found = dict(options.columns)
    for key, names in found.items():
        absent = [name for name in names if name not in present]
        if absent or key not in USUAL_COLUMNS:
            what = f"no column {', '.join(absent)}" if absent else f"no key {key}"
            allowed = present if absent else list(USUAL_COLUMNS)
            raise UserError(f"{place}: --columns: {what}; there are {', '.join(allowed)}")
    for key, usual in USUAL_COLUMNS.items():
        matching = [name for name in usual if name in present]
        numbered = [name for name in present if key == "text" and name.startswith("caption_")]
        if key not in found and (matching or numbered):
            found[key] = tuple(numbered) if numbered else (matching[0],)
    missing = [key for key in needed if key not in found]
    if missing:
        raise LayoutError(
            f"{place}: no column for {' and '.join(missing)}; found {','.join(present) or 'none'}; "
            f"say which it is with --columns {missing[0]}=COLUMN"
        )
    return found


def build_entry(cells: dict[str, list[Any]], place: str) -> Entry:
    """An annotation entry from a row's cells by annotation key.

    Raises:
        UserError: a number that is none, or an end before its start.
    """
    entry: Entry = {}
    for key, values in cells.items():
        flat = [
            text for value in values for text in (value if isinstance(value, list) else [value])
        ]
        kept = [value for value in flat if value not in (None, "")]
        if not kept:
            continue
        if key in NUMBER_KEYS:
            entry[key] = _read_number(kept[0], key, place)
        else:
            texts = [str(value).strip() for value in kept]
            entry[key] = texts if key == "text" and len(texts) > 1 else texts[0]
    end = entry.pop("end", None)
    if end is not None:
        start = entry.setdefault("offset", 0.0)
        if end <= start:
            raise UserError(f"{place}: the clip ends at {end:g} s, before its start at {start:g} s")
        entry["duration"] = round(end - start, 4)
    return entry


def _read_number(value: Any, key: str, place: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: {key} is {value!r}; give seconds as a number") from error


def _find_audio(name: str, folders: list[Path]) -> Path:
    suffixes = ("",) if name.lower().endswith(AUDIO_SUFFIXES) else ("", *AUDIO_SUFFIXES)
    places = [folder / f"{name}{suffix}" for folder in folders for suffix in suffixes]
    return next((place for place in places if place.is_file()), places[0])


def _check_is_file(source: Path, what: str, layout: str) -> None:
    if not source.is_file():
        raise LayoutError(
            f"{source} is no {what}: expected {layout}; found {describe_source(source)}"
        )


def _check_entry(entry: Any, place: str) -> None:
    problem = find_problem(entry)
    if problem is not None:
        raise UserError(f"{place}: {problem}")
