"""Captioned sounds: AudioCaps, Clotho and WavCaps. Every reference of a clip is kept.

AudioCaps: a CSV `audiocap_id,youtube_id,start_time,caption`; a clip of the test and validation
parts has five rows. Audio files are the user's own downloads, under several usual names.
Clotho: a CSV `file_name,caption_1,...,caption_5`, audio in a folder named like its part.
WavCaps: a JSON `{"num_captions_per_audio", "data": [{"id", "caption", "duration", ...}]}` per
source, audio as flac named by `id`.
Sources: https://github.com/cdjkim/audiocaps, https://zenodo.org/records/4783391,
https://github.com/XinhaoMei/WavCaps
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiolm.data.entries import Entry
from audiolm.data.importers.sources import (
    AudioFolder,
    ImportOptions,
    LayoutError,
    choose_parts,
    describe_source,
    find_audio_dir,
    iterate_table,
    read_header,
)
from audiolm.data.json_stream import iterate_json_list
from audiolm.errors import UserError

AUDIOCAPS_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
AUDIOCAPS_SECONDS = 10  # of a clip, for file names that tell its end
CLOTHO_COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
AUDIOCAPS_LAYOUT = f"train.csv, val.csv, test.csv with columns {','.join(AUDIOCAPS_COLUMNS)}"
CLOTHO_LAYOUT = (
    "clotho_captions_PART.csv with columns file_name,caption_1,...,caption_5 and the folder PART/"
)
WAVCAPS_LAYOUT = 'JSON files {"num_captions_per_audio", "data": [{"id", "caption", ...}]}'
# As the archives unpack, in folders of their names or not; then as the DCASE baselines have it.
CLOTHO_FOLDERS = (
    "{part}", "clotho_audio_{part}/{part}", "clotho_audio_{part}", "audio_{part}/{part}",
    "../clotho_audio_files/{part}", "audio",
)  # fmt: skip
_CLOTHO_NAME = re.compile(r"clotho_captions_(\w+)\.csv")
_WAVCAPS_START = re.compile(r'\s*\{\s*"num_captions_per_audio"')


def recognises_audiocaps(source: Path) -> bool:
    """Whether it is, or holds, a CSV with AudioCaps' columns."""
    return bool(_find_tables(source, AUDIOCAPS_COLUMNS))


def recognises_clotho(source: Path) -> bool:
    """Whether it is, or holds, a CSV with Clotho's columns."""
    return bool(_find_tables(source, CLOTHO_COLUMNS))


def recognises_wavcaps(source: Path) -> bool:
    """Whether it is, or holds, a JSON that starts as WavCaps' do."""
    return bool(_find_wavcaps(source))


def read_audiocaps(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per clip (video and start), its captions together."""
    tables = _choose_tables(source, AUDIOCAPS_COLUMNS, "AudioCaps", AUDIOCAPS_LAYOUT, options)
    for part, path in tables.items():
        clips: dict[tuple[str, str], list[str]] = {}
        ids: dict[tuple[str, str], str] = {}
        for _, row in iterate_table(path, AUDIOCAPS_COLUMNS):
            key = row["youtube_id"], row["start_time"]
            clips.setdefault(key, []).append(row["caption"].strip())
            ids.setdefault(key, row["audiocap_id"])
        folder = AudioFolder(find_audio_dir(path.parent, (part, "audio", "wav"), options))
        for (youtube_id, start_time), captions in clips.items():
            names = _name_audiocaps(youtube_id, start_time, ids[youtube_id, start_time], options)
            yield {
                "path": str(folder.find(*names)),
                "text": _as_text(captions),
                "corpus": "audiocaps",
                "youtube_id": youtube_id,
                "start_time": start_time,
            }


def read_clotho(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per file, with its five captions."""
    tables = _choose_tables(source, CLOTHO_COLUMNS, "Clotho", CLOTHO_LAYOUT, options)
    for part, path in tables.items():
        names = [place.format(part=part) for place in CLOTHO_FOLDERS]
        folder = find_audio_dir(path.parent, names, options)
        for _, row in iterate_table(path, CLOTHO_COLUMNS):
            yield {
                "path": str(folder / row["file_name"]),
                "text": [row[name].strip() for name in CLOTHO_COLUMNS[1:] if row[name].strip()],
                "corpus": "clotho",
            }


def read_wavcaps(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """One entry per item of each source's JSON."""
    found = _find_wavcaps(source)
    if not found:
        raise LayoutError(
            f"{source} holds no WavCaps: expected {WAVCAPS_LAYOUT}; found {describe_source(source)}"
        )
    # Its sources are made to be mixed, so all of them are taken unless the user chooses.
    chosen = choose_parts(found, options, source) if options.parts else found
    for part, path in chosen.items():
        base = source if source.is_dir() else path.parent
        folder = AudioFolder(_find_wavcaps_audio(base, part, options))
        for number, item in enumerate(iterate_json_list(path, "data", "WavCaps metadata")):
            yield _read_wavcaps_item(item, f"{path}: data[{number}]", part, folder)


def _find_wavcaps_audio(base: Path, part: str, options: ImportOptions) -> Path:
    """The folder of a source's audio, wherever it is: sources use the same numbers as names."""
    top = find_audio_dir(base, (), options)
    for name in (f"{part}_flac", part):
        for folder in (top / name, *sorted(top.rglob(name))):
            if folder.is_dir() and "json_files" not in folder.parts:
                return folder
    return next((top / name for name in ("waveforms", "audio") if (top / name).is_dir()), top)


def _read_wavcaps_item(item: Any, place: str, part: str, folder: AudioFolder) -> Entry:
    if not isinstance(item, dict) or not item.get("id") or "caption" not in item:
        raise LayoutError(f"{place} is {item!r:.200}; expected an object with id and caption")
    stem = re.sub(r"\.(wav|flac|mp3)$", "", str(item["id"]))
    entry = {"path": str(folder.find(stem)), "text": item["caption"], "corpus": f"wavcaps/{part}"}
    seconds = item.get("duration")
    if isinstance(seconds, int | float) and seconds > 0:
        entry["duration"] = float(seconds)
    return entry


def _name_audiocaps(
    youtube_id: str, start_time: str, audiocap_id: str, options: ImportOptions
) -> list[str]:
    """Names, without suffix, under which people keep a clip; the likeliest first."""
    if options.audio_name:
        values = {"youtube_id": youtube_id, "start_time": start_time, "audiocap_id": audiocap_id}
        try:
            return [options.audio_name.format(**values)]
        except (KeyError, IndexError, ValueError) as error:
            allowed = ", ".join(f"{{{name}}}" for name in values)
            raise UserError(f"--audio-name {options.audio_name!r}: use {allowed}") from error
    names = [youtube_id, f"{youtube_id}_{start_time}", f"Y{youtube_id}", audiocap_id]
    if start_time.isdecimal():
        start = int(start_time)
        end = start + AUDIOCAPS_SECONDS
        names += [f"{youtube_id}_{start}_{end}", f"{youtube_id}_{start * 1000}_{end * 1000}"]
    return names


def _as_text(captions: list[str]) -> str | list[str]:
    return captions[0] if len(captions) == 1 else captions


def _choose_tables(
    source: Path, columns: tuple[str, ...], title: str, layout: str, options: ImportOptions
) -> dict[str, Path]:
    found = _find_tables(source, columns)
    if found:
        return choose_parts(found, options, source)
    if source.is_file():
        header = ",".join(read_header(source)) or describe_source(source)
        raise LayoutError(
            f"{source} is no {title} table: expected columns {','.join(columns)}; found {header}"
        )
    raise LayoutError(
        f"{source} holds no {title}: expected {layout}; found {describe_source(source)}"
    )


def _find_tables(source: Path, columns: tuple[str, ...]) -> dict[str, Path]:
    """Part -> CSV, of those CSVs that have the columns."""
    paths = [source] if source.is_file() else sorted(source.glob("*.csv"))
    paths += [] if source.is_file() else sorted(source.glob("*/*.csv"))
    found = {}
    for path in paths:
        if set(columns) <= {name.strip() for name in read_header(path)}:
            named = _CLOTHO_NAME.fullmatch(path.name)
            found[named[1] if named else path.stem] = path
    return found


def _find_wavcaps(source: Path) -> dict[str, Path]:
    """Part (AudioSet_SL, FreeSound, ...) -> JSON: the folder it is in, or its name."""
    paths = [source] if source.is_file() else sorted(source.glob("**/*.json"))
    found = {}
    for path in paths:
        with path.open("rb") as file:
            start = file.read(200).decode("utf-8-sig", "replace")
        if _WAVCAPS_START.match(start) and "blacklist" not in str(path):
            parent = path.parent.name
            is_own_folder = path.parent != source and parent not in ("json_files", "")
            found[parent if is_own_folder and not source.is_file() else path.stem] = path
    return found
