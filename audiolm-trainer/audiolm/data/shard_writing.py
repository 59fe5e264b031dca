"""Pack an annotation's clips into tar shards in webdataset's layout, with an index.

In: an annotation and its prefix. Out, in a new folder:

    shard-000000.tar ...     per clip KEY.SUFFIX (the audio) and KEY.json (its entry)
    annotation.jsonl         the index: the same entries, with the place of each clip's bytes
    shards.json              file, clips and bytes of every shard (webdataset's shard list)

Files go in as they are. What is a part of a file, several files joined, or a format that needs
ffmpeg goes in as flac, so that every clip of a shard stands alone.
"""

import functools
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from audiolm.audio.ffmpeg import needs_ffmpeg
from audiolm.audio.loading import (
    JOIN_SILENCE_SECONDS,
    SAMPLE_RATE_HZ,
    WHOLE_FILE,
    AudioError,
    AudioSource,
    Span,
    audio_seconds,
    read_frames,
    resample,
)
from audiolm.data.clips import Clip, read_clip
from audiolm.data.entries import Entry, write_entries
from audiolm.data.outputs import whole_folder
from audiolm.data.parallel import map_in_processes
from audiolm.data.reshaping import iterate_checked
from audiolm.data.shard_reading import ShardStore
from audiolm.errors import UserError

INDEX_NAME = "annotation.jsonl"
LIST_NAME = "shards.json"
SHARD_PATTERN = "shard-%06d.tar"
OUTPUT_KEYS = ("offset", "expand_wav", "shard", "shard_offset", "shard_bytes")
ANY_LENGTH = float("inf")


@dataclass
class ShardReport:
    """What was written, and which clips could not be."""

    num_clips: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    num_unusable: int = 0
    first_unusable: str = ""
    suffixes: Counter[str] = field(default_factory=Counter)


class _Packed(NamedTuple):
    """A clip ready to be written, or why it is not."""

    entry: Entry
    suffix: str = ""
    content: bytes = b""
    problem: str = ""


def write_shards(
    path: str | Path,
    output: str | Path,
    *,
    prefix: str = "",
    max_bytes: float = 1e9,
    max_clips: int = 100_000,
    base: str | Path | None = None,
    skips_bad: bool = False,
    num_processes: int = 1,
    overwrite: bool = False,
    report_progress: Callable[[int], None] = lambda num_clips: None,
) -> ShardReport:
    """Write the folder `output`; the clips keep their order.

    Args:
        path: the annotation.
        output: folder to make; later the `datasets.prefix` of its `annotation.jsonl`.
        prefix: folder that the annotation's paths start from.
        max_bytes, max_clips: a shard is closed when it has reached one of them.
        base: folder above `output` that training shall have as its prefix, where training and
            validation are sharded side by side; None: `output` itself.
        skips_bad: leave out clips whose audio cannot be used, instead of refusing.
        num_processes: processes that read and encode.
        overwrite: whether a folder that is there may be replaced.
        report_progress: called with the number of clips so far.

    Raises:
        UserError: `output` is not below `base`, a malformed annotation, audio that cannot be used,
            or an output that cannot be written.
    """
    from webdataset.writer import ShardWriter  # it imports torch

    report = ShardReport()
    inside = _find_place(output, base or output)

    def list_samples() -> Iterator[_Packed]:
        work = functools.partial(pack_chunk, prefix)
        for chunk in map_in_processes(work, enumerate(iterate_checked(path)), num_processes):
            for packed in chunk:
                if packed.problem:
                    report.num_unusable += 1
                    report.first_unusable = report.first_unusable or packed.problem
                    continue
                report.suffixes[packed.suffix] += 1
                yield packed
            report_progress(report.num_clips + report.num_unusable)

    with whole_folder(output, overwrite=overwrite, sources=[path]) as folder:
        pattern = str(folder.absolute()).replace("%", "%%") + f"/{SHARD_PATTERN}"
        with ShardWriter(
            pattern, maxcount=max_clips, maxsize=max_bytes, verbose=0, encoder=False, mtime=0
        ) as writer:
            for packed in list_samples():
                content = {packed.suffix: packed.content, "json": _dump(packed.entry)}
                writer.write({"__key__": f"{report.num_clips:09d}", **content})
                report.num_clips += 1
        _refuse_unusable(report, skips_bad)
        _write_index(folder, report, inside)
    return report


def pack_chunk(prefix: str, rows: list[tuple[int, Entry]]) -> list[_Packed]:
    """Entries with their audio as it goes into the shard: what a process is given at a time."""
    store = ShardStore(prefix)
    packed = []
    for index, entry in rows:
        clip = read_clip(index, entry)
        try:
            packed.append(_pack(clip, entry, store.list_sources(clip, prefix)))
        except AudioError as error:
            problem = f"annotation[{index}] ({clip.name}): {error.reason}"
            packed.append(_Packed(entry, problem=problem))
        except UserError as error:
            raise UserError(f"{clip.place}: {error}") from error
    return packed


def _pack(clip: Clip, entry: Entry, sources: list[AudioSource]) -> _Packed:
    kept = {key: value for key, value in entry.items() if key not in OUTPUT_KEYS}
    source = sources[0]
    is_whole = len(sources) == 1 and clip.offset is None
    if is_whole and not (isinstance(source, str | Path) and needs_ffmpeg(source)):
        seconds = audio_seconds(source)
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source.content
        suffix = Path(clip.path).suffix.lower().lstrip(".") or "audio"
    else:
        frames, rate_hz = _join(sources, clip.span)
        seconds = frames.shape[0] / rate_hz
        suffix, content = "flac", _encode_flac(frames, rate_hz)
    return _Packed({**kept, "duration": round(seconds, 4)}, suffix, content)


def _join(sources: list[AudioSource], span: Span) -> tuple[np.ndarray, int]:
    """One clip's frames, (T, C) at its own rate; (T, 1) at 16 kHz when several are joined."""
    if len(sources) == 1:
        frames, rate_hz, _ = read_frames(sources[0], span, ANY_LENGTH)
        return frames, rate_hz
    silence = np.zeros(round(JOIN_SILENCE_SECONDS * SAMPLE_RATE_HZ), dtype=np.float32)
    pieces: list[np.ndarray] = []
    for source in sources:
        piece_span = WHOLE_FILE if pieces else span
        frames, rate_hz, _ = read_frames(source, piece_span, ANY_LENGTH)
        pieces += [silence] if pieces else []
        pieces.append(resample(frames.mean(axis=1, dtype=np.float32), rate_hz))
    return np.concatenate(pieces)[:, None], SAMPLE_RATE_HZ


def _encode_flac(frames: np.ndarray, rate_hz: int) -> bytes:
    """16 bits where those hold every sample exactly, else 24."""
    levels = frames * 32768
    is_exact = bool(np.array_equal(levels, np.round(levels))) and float(levels.max()) <= 32767
    buffer = io.BytesIO()
    if is_exact:
        soundfile.write(buffer, levels.astype(np.int16), rate_hz, format="FLAC", subtype="PCM_16")
    else:
        soundfile.write(buffer, frames, rate_hz, format="FLAC", subtype="PCM_24")
    return buffer.getvalue()


def _refuse_unusable(report: ShardReport, skips_bad: bool) -> None:
    if report.num_unusable and (not skips_bad or not report.num_clips):
        raise UserError(
            f"{report.num_unusable} clips cannot be used; first: {report.first_unusable}; "
            "--skip-bad leaves them out, check lists them"
        )


def _find_place(output: str | Path, base: str | Path) -> Path:
    """Where the shards are below the prefix of training."""
    inside = Path(os.path.relpath(output, base))
    if os.pardir in inside.parts:
        raise UserError(f"{output} is not below {base}, which training shall have as its prefix")
    return inside


def _write_index(folder: Path, report: ShardReport, inside: Path) -> None:
    shards = sorted(folder.glob("shard-*.tar"))
    counts: dict[str, int] = {}

    def list_places() -> Iterable[Entry]:
        for shard in shards:
            with tarfile.open(shard, "r:") as tar:
                places = [(member.offset_data, member.size) for member in tar]
                # A clip's two members follow one another; "json" is the one that is not audio.
                names = [member.name for member in tar.getmembers()]
            counts[shard.name] = len(names) // 2
            with shard.open("rb") as file:
                for position in range(0, len(names), 2):
                    pair = sorted(range(position, position + 2), key=lambda i: _is_entry(names[i]))
                    file.seek(places[pair[1]][0])
                    entry: dict[str, Any] = json.loads(file.read(places[pair[1]][1]))
                    offset, size = places[pair[0]]
                    place = {
                        "shard": (inside / shard.name).as_posix(),
                        "shard_offset": offset,
                        "shard_bytes": size,
                    }
                    yield {**entry, **place}

    write_entries(folder / INDEX_NAME, list_places(), folder / INDEX_NAME)
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    shard_list = [
        {"url": name, "nsamples": counts[name], "filesize": size} for name, size in sizes.items()
    ]
    content = {"wids_version": 1, "shardlist": shard_list}
    (folder / LIST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    report.num_shards, report.num_bytes = len(shards), sum(sizes.values())


def _is_entry(name: str) -> bool:
    return name.endswith(".json")


def _dump(entry: Entry) -> bytes:
    return json.dumps(entry).encode("ascii")
