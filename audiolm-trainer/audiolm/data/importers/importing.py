"""Import a corpus: from its files on disk to one annotation.

In: a kind of corpus, its folder or file, and what the user says about it. Out: an annotation whose
paths start at a prefix, every entry with its task and length, and a report of what was left out.
Lengths come from the corpus's own metadata, or from the headers of its audio files.
"""

import contextlib
import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from audiolm.audio.loading import JOIN_SILENCE_SECONDS, AudioError, Span, audio_seconds
from audiolm.data.entries import (
    Entry,
    check_annotation_output,
    number_entries,
    order_keys,
    write_entries,
)
from audiolm.data.importers.kinds import CORPUS_KINDS, guess_kind
from audiolm.data.importers.sources import ImportOptions, LayoutError
from audiolm.data.outputs import whole_file, whole_folder
from audiolm.errors import UserError

MissingPolicy = Literal["error", "drop", "keep"]
CHUNK_ENTRIES = 1024
NUM_HEADER_THREADS = 8


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        num_entries: entries written.
        seconds: their length together.
        left_out: reason -> number of things that became no entry.
        prefix: folder that the paths start from.
        first_unusable: the first audio file that is missing or unreadable, and why.
    """

    num_entries: int = 0
    seconds: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)
    prefix: Path = Path()
    first_unusable: str = ""
    num_unusable: int = 0


def import_corpus(
    kind_name: str,
    source: str | Path,
    output: str | Path,
    *,
    options: ImportOptions,
    task: str = "",
    prefix: str | Path | None = None,
    missing: MissingPolicy = "error",
    has_testset_ids: bool = False,
    overwrite: bool = False,
    report_progress: Callable[[int], None] = lambda num_entries: None,
) -> ImportReport:
    """Write the annotation of a corpus.

    Args:
        kind_name: a key of `CORPUS_KINDS`.
        source: the corpus's folder or file.
        output: the annotation to write; .json, .jsonl or .jsonl.gz.
        options: what the importer shall do.
        task: of entries that name none; empty: the corpus's own.
        prefix: folder that paths shall start from; None: the source's folder, or that of the audio.
        missing: entries whose audio is missing or unreadable: "error" writes nothing, "drop" leaves
            them out, "keep" leaves them in.
        has_testset_ids: number the entries `test0000`, ...
        overwrite: whether an output that is there may be replaced.
        report_progress: called with the number of entries so far.

    Raises:
        UserError: the source is another corpus or malformed, audio is missing, a path is not below
            the prefix, or the output cannot be written.
    """
    source = Path(os.path.abspath(source))
    check_annotation_output(output, overwrite=overwrite, sources=[source])
    report = ImportReport()
    options = replace(options, skip=lambda reason: report.left_out.update([reason]))
    with contextlib.ExitStack() as stack:
        # Left in the opposite order: extracted audio is in its place before the annotation is.
        temporary = stack.enter_context(whole_file(output, overwrite=overwrite, sources=[source]))
        if kind_name == "hf":
            folder = whole_folder(name_audio_folder(output), overwrite=overwrite, sources=[source])
            extract_dir = Path(os.path.abspath(stack.enter_context(folder)))
            options = replace(options, extract_dir=extract_dir)
        rows = _read_rows(kind_name, source, options)
        base = Path(os.path.abspath(prefix)) if prefix else None
        finisher = _Finisher(report, source, options, base)
        entries = finisher.finish(rows, task or CORPUS_KINDS[kind_name].task, report_progress)
        kept = _refuse_unusable(entries, report, missing)
        write_entries(temporary, number_entries(kept) if has_testset_ids else kept, output)
    if options.extract_dir is not None:
        report.prefix = _settle_audio_folder(report.prefix, options.extract_dir, output)
    return report


def name_audio_folder(output: str | Path) -> Path:
    """Where audio is put that the corpus holds in its tables: `x_audio` beside `x.json`."""
    path = Path(output)
    return path.with_name(f"{path.name.partition('.')[0]}_audio")


def _read_rows(kind_name: str, source: Path, options: ImportOptions) -> Iterator[Entry]:
    """The importer's rows; a source of another kind is told with what it looks like."""
    num_rows = 0
    try:
        if not source.exists():
            raise LayoutError(f"there is nothing at {source}")
        for row in CORPUS_KINDS[kind_name].read(source, options):
            yield row
            num_rows += 1
    except UserError as error:
        if num_rows and not isinstance(error, LayoutError):
            raise  # it is the kind it should be, but for a mistake in it
        guess = guess_kind(source)
        if guess in (None, kind_name):
            raise
        title = CORPUS_KINDS[guess].title
        raise LayoutError(f"{error}; it looks like {title}: import {guess}") from error


class _Finisher:
    """What is done to every importer's rows: task, length, path below the prefix."""

    def __init__(
        self, report: ImportReport, source: Path, options: ImportOptions, prefix: Path | None
    ) -> None:
        self._report = report
        self._source_dir = source if source.is_dir() else source.parent
        self._options = options
        self._prefix = prefix
        # Segments of one long file come together: few results are enough.
        self._is_file = functools.lru_cache(NUM_HEADER_THREADS)(os.path.isfile)

    def finish(
        self, rows: Iterator[Entry], task: str, report_progress: Callable[[int], None]
    ) -> Iterator[tuple[Entry, str]]:
        """Each row's entry, and what is wrong with its audio ("" if nothing is)."""
        num_entries = 0
        with ThreadPoolExecutor(NUM_HEADER_THREADS) as pool:
            while chunk := list(itertools.islice(rows, CHUNK_ENTRIES)):
                with_text = [row for row in chunk if row.get("text")]
                self._report.left_out["entries without text"] += len(chunk) - len(with_text)
                for row, (seconds, problem) in zip(
                    with_text, pool.map(self._measure, with_text), strict=True
                ):
                    entry = {**row, "task": row.get("task") or task}
                    if seconds is not None:
                        entry["duration"] = seconds
                    entry["path"] = self._relative(row["path"])
                    if row.get("expand_wav"):
                        entry["expand_wav"] = [self._relative(path) for path in row["expand_wav"]]
                    yield order_keys(entry), problem
                num_entries += len(chunk)
                report_progress(num_entries)

    def _measure(self, row: Entry) -> tuple[float | None, str]:
        """Length in seconds where the audio has to tell it, and what is wrong with the audio."""
        if row.get("duration"):
            is_there = self._is_file(row["path"])
            return None, "" if is_there else f"{row['path']}: no such file"
        try:
            span = Span(row.get("offset") or 0.0)
            total = audio_seconds(row["path"], span)
            total += sum(JOIN_SILENCE_SECONDS + audio_seconds(p) for p in row.get("expand_wav", ()))
            return round(total, 4), ""
        except AudioError as error:
            return None, f"{error.path}: {error.reason}"

    def _relative(self, path: str) -> str:
        if self._prefix is None:
            self._prefix = self._choose_prefix(Path(path))
        self._report.prefix = self._prefix
        inside = os.path.relpath(path, self._prefix)
        if inside.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"audio {path} is not below the prefix {self._prefix}; "
                "name a folder above both with --prefix"
            )
        return Path(inside).as_posix()

    def _choose_prefix(self, first_path: Path) -> Path:
        """The source's folder, or the audio's where that lies elsewhere."""
        for folder in (self._source_dir, self._options.extract_dir, self._options.audio_dir):
            if folder is not None and folder in first_path.parents:
                return folder
        return self._source_dir


def _refuse_unusable(
    entries: Iterable[tuple[Entry, str]], report: ImportReport, missing: MissingPolicy
) -> Iterator[Entry]:
    """The entries to write, counted; those without audio as the policy says."""
    for entry, problem in entries:
        if problem:
            report.num_unusable += 1
            report.first_unusable = report.first_unusable or problem
            if missing == "drop":
                report.left_out["entries whose audio is missing or unreadable"] += 1
            if missing != "keep":
                continue
        report.num_entries += 1
        report.seconds += entry.get("duration") or 0.0
        yield entry
    if report.num_unusable and missing == "error":
        raise UserError(
            f"{report.num_unusable} of {report.num_unusable + report.num_entries} entries have no "
            f"usable audio; first: {report.first_unusable}; --missing drop leaves them out"
        )
    if not report.num_entries:
        first = f"; first: {report.first_unusable}" if report.first_unusable else ""
        raise UserError(f"no entry can be imported{first}")


def _settle_audio_folder(prefix: Path, extract_dir: Path, output: str | Path) -> Path:
    """Where the paths start from now that extracted audio is in its place (if there is any)."""
    folder = name_audio_folder(output)
    if prefix == extract_dir:
        return folder
    folder.rmdir()
    return prefix
