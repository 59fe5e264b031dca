"""A local Hugging Face data set: parquet or arrow files with an `audio` column.

Parquet as on the hub: `data/train-00000-of-00002.parquet` or `train/0000.parquet`. Arrow as
`save_to_disk` writes it: `data-00000-of-00001.arrow` beside `state.json`, in a folder per part
when there are several. `audio` is a struct of `bytes` and `path`; bytes are written to files.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from audiolm.data.entries import Entry
from audiolm.data.importers.manifests import build_entry, find_columns
from audiolm.data.importers.sources import (
    AUDIO_SUFFIXES,
    ImportOptions,
    LayoutError,
    choose_parts,
    describe_source,
)
from audiolm.errors import UserError

LAYOUT = "*.parquet or *.arrow files with an audio column (a struct of bytes and path)"
ROWS_PER_BATCH = 32  # audio is large
_NAMED_PART = re.compile(r"(.+?)-\d+-of-\d+(?:-[0-9a-f]+)?")  # some have a hash behind it
_MAGIC = (
    (b"RIFF", 0, ".wav"),
    (b"fLaC", 0, ".flac"),
    (b"OpusHead", 28, ".opus"),
    (b"OggS", 0, ".ogg"),
    (b"ID3", 0, ".mp3"),
    (b"ftyp", 4, ".m4a"),
)


def recognises(source: Path) -> bool:
    """Whether it is, or holds, parquet or arrow files."""
    return bool(_find_files(source))


def read(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per row; audio bytes go to `options.extract_dir`, as PART/NUMBER.SUFFIX."""
    found = _find_files(source)
    if not found:
        raise LayoutError(
            f"{source} holds no data set: expected {LAYOUT}; found {describe_source(source)}"
        )
    for part, paths in choose_parts(found, options, source).items():
        number = 0
        for path in paths:
            for row in _iterate_rows(path, options):
                audio, cells = row.pop("path")[0], row
                place = f"{path}: row {number}"
                entry = build_entry(cells, place)
                entry["path"] = str(_place_audio(audio, part, number, source, options, place))
                yield entry
                number += 1


def _find_files(source: Path) -> dict[str, list[Path]]:
    """Part -> its files in order."""
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    found: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix in (".parquet", ".arrow") and path.is_file():
            named = _NAMED_PART.fullmatch(path.stem)
            part = named[1] if named else path.stem
            if part == "data" or part.isdecimal():  # save_to_disk's name; the hub's own conversion
                part = path.parent.name
            found.setdefault(part, []).append(path)
    return found


def _iterate_rows(path: Path, options: ImportOptions) -> Iterator[dict[str, list[Any]]]:
    """Cells by annotation key; under "path" the audio column's struct."""
    try:
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                columns = _choose_columns(file.schema_arrow, options, path)
                names = [name for group in columns.values() for name in group]
                for batch in file.iter_batches(ROWS_PER_BATCH, columns=names):
                    yield from _split_batch(batch, columns)
        else:
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
                columns = _choose_columns(reader.schema, options, path)
                for batch in reader:
                    for first in range(0, batch.num_rows, ROWS_PER_BATCH):
                        yield from _split_batch(batch.slice(first, ROWS_PER_BATCH), columns)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _choose_columns(
    schema: pyarrow.Schema, options: ImportOptions, path: Path
) -> dict[str, tuple[str, ...]]:
    columns = find_columns(schema.names, options, str(path), needed=("text",))
    if "path" not in options.columns and "audio" in schema.names:
        columns["path"] = ("audio",)
    name = columns.get("path", ("audio",))[0]
    if name not in schema.names:
        raise LayoutError(
            f"{path}: no audio column; found {', '.join(schema.names)}; "
            "say which it is with --columns path=COLUMN"
        )
    kind = schema.field(name).type
    is_struct = pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
    if not is_struct and not pyarrow.types.is_string(kind):
        raise LayoutError(
            f"{path}: column {name} is {kind}; expected a struct of bytes and path, or paths"
        )
    return columns


def _split_batch(
    batch: pyarrow.RecordBatch, columns: dict[str, tuple[str, ...]]
) -> Iterator[dict[str, list[Any]]]:
    for row in batch.to_pylist():
        yield {key: [row[name] for name in group] for key, group in columns.items()}


def _place_audio(
    audio: Any, part: str, number: int, source: Path, options: ImportOptions, place: str
) -> Path:
    """The file of a row's audio: written from its bytes, or where its path says."""
    audio = {"path": audio} if isinstance(audio, str) else audio or {}
    content, name = audio.get("bytes"), audio.get("path") or ""
    base = options.audio_dir or (source if source.is_dir() else source.parent)
    if content is None:
        if not name:
            raise UserError(f"{place}: its audio has neither bytes nor a path")
        return base / name
    assert options.extract_dir is not None
    file = options.extract_dir / part / f"{number:07d}{_find_suffix(content, name, place)}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def _find_suffix(content: bytes, name: str, place: str) -> str:
    """What the bytes say they are; else what the name says."""
    for magic, position, suffix in _MAGIC:
        if content[position : position + len(magic)] == magic:
            return suffix
    suffix = Path(name).suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        return suffix
    if content[:1] == b"\xff":  # an mp3 frame without ID3
        return ".mp3"
    raise UserError(f"{place}: its audio is of no known format (it starts with {content[:8]!r})")
