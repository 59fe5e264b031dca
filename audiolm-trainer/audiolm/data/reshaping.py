"""New annotations out of old ones: merged, chosen from, with other paths.

In: annotations. Out: one annotation, written whole; entries keep all their keys. Rows are read and
written one by one.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audiolm.data.annotations import resolve_audio_path
from audiolm.data.clips import find_problem
from audiolm.data.entries import Entry, iterate_entries, number_entries, save_entries
from audiolm.data.identity import (
    compute_entry_key,
    compute_question_key,
    draw_fraction,
    hash_parts,
)
from audiolm.errors import UserError


@dataclass
class ReshapeReport:
    """Entries read and written, and what became of the others.

    Attributes:
        num_other_texts: merge: entries kept although the same was asked of the same audio before,
            because their texts differ.
        num_unchanged: rewrite-paths: entries of which no path starts with the old one.
    """

    num_read: int = 0
    num_written: int = 0
    num_repeated: int = 0
    num_other_texts: int = 0
    num_unchanged: int = 0
    num_missing: int = 0
    first_missing: str = ""


def iterate_checked(path: str | Path) -> Iterator[Entry]:
    """Entries of an annotation, all of them well-formed.

    Raises:
        UserError: as `iterate_entries`, or an entry is malformed.
    """
    for index, entry in enumerate(iterate_entries(path)):
        problem = find_problem(entry)
        if problem is not None:
            raise UserError(f"{path}: annotation[{index}]: {problem}")
        yield entry


def merge_annotations(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    renumbers: bool = False,
    overwrite: bool = False,
) -> ReshapeReport:
    """Put annotations together, in their order; of entries that are equal the first stays.

    Equal are: file and part of it, `expand_wav`, task, `Q` and texts. Other keys do not count.

    Args:
        paths: the annotations.
        output: the annotation to write.
        renumbers: give every entry a new testset_id.
        overwrite: whether an output that is there may be replaced.

    Raises:
        UserError: a malformed annotation, a testset_id that two entries have, or an output that
            cannot be written.
    """
    report = ReshapeReport()

    def merge() -> Iterator[Entry]:
        entries_seen: set[int] = set()
        questions_seen: set[int] = set()
        ids_seen: set[int] = set()
        for path in paths:
            for entry in iterate_checked(path):
                report.num_read += 1
                key, question = compute_entry_key(entry), compute_question_key(entry)
                if key in entries_seen:
                    report.num_repeated += 1
                    continue
                report.num_other_texts += question in questions_seen
                entries_seen.add(key)
                questions_seen.add(question)
                if entry.get("testset_id") and not renumbers:
                    _check_id(entry["testset_id"], path, ids_seen)
                yield entry

    merged = number_entries(merge()) if renumbers else merge()
    report.num_written = save_entries(output, merged, overwrite=overwrite, sources=paths)
    return report


@dataclass(frozen=True)
class Selection:
    """Which entries `subset` takes; what is empty or None takes all.

    Attributes:
        tasks: tasks.
        where: key -> allowed values, compared as text.
        min_seconds, max_seconds: annotated length; entries without one are not taken then.
        num_entries: at most so many, drawn by the seed.
        seed: of the draw; for equal seeds a smaller draw is part of a larger one.
    """

    tasks: tuple[str, ...] = ()
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_seconds: float | None = None
    max_seconds: float | None = None
    num_entries: int | None = None
    seed: int = 0

    def takes(self, entry: Entry) -> bool:
        """Whether an entry passes everything but the draw."""
        if self.tasks and (entry.get("task") or "asr") not in self.tasks:
            return False
        if any(str(entry.get(key, "")) not in allowed for key, allowed in self.where.items()):
            return False
        if self.min_seconds is None and self.max_seconds is None:
            return True
        seconds = entry.get("duration", entry.get("seconds"))
        if not isinstance(seconds, int | float):
            return False
        return (self.min_seconds or 0.0) <= seconds <= (self.max_seconds or float("inf"))


def take_subset(
    path: str | Path, output: str | Path, selection: Selection, *, overwrite: bool = False
) -> ReshapeReport:
    """Write the entries that a selection takes, in their order.

    Raises:
        UserError: a malformed annotation, nothing is taken, or the output cannot be written.
    """
    report = ReshapeReport()

    def passing() -> Iterator[tuple[int, Entry]]:
        for index, entry in enumerate(iterate_checked(path)):
            if selection.takes(entry):
                yield index, entry

    drawn: set[int] | None = None
    if selection.num_entries is not None:
        draws = (
            (draw_fraction(selection.seed, "subset", compute_entry_key(entry)), index)
            for index, entry in passing()
        )
        drawn = {index for _, index in heapq.nsmallest(selection.num_entries, draws)}
    taken = (entry for index, entry in passing() if drawn is None or index in drawn)
    report.num_written = save_entries(output, taken, overwrite=overwrite, sources=[path])
    report.num_read = sum(1 for _ in iterate_entries(path))
    return report


def rewrite_paths(
    path: str | Path,
    output: str | Path,
    *,
    old: str,
    new: str,
    prefix: str | None = None,
    drops_missing: bool = False,
    overwrite: bool = False,
) -> ReshapeReport:
    """Replace the start of every path (`expand_wav` too); other paths stay.

    Args:
        path: the annotation.
        output: the annotation to write.
        old: start of a path, whole folder names: `data` is the start of `data/x.wav`, not of
            `database/x.wav`. A leading `/` counts neither here nor in the annotation. "": put `new`
            before every path.
        new: what takes its place.
        prefix: when given, the new paths must lead to files below it.
        drops_missing: leave out entries whose files are not there, instead of refusing.
        overwrite: whether an output that is there may be replaced.

    Raises:
        UserError: no path starts with `old`, a file is missing, a path leads out of the prefix, a
            malformed annotation, or an output that cannot be written.
    """
    report = ReshapeReport()

    def rewrite() -> Iterator[Entry]:
        first_path = ""
        for entry in iterate_checked(path):
            report.num_read += 1
            first_path = first_path or entry["path"]
            paths = [entry["path"], *(entry.get("expand_wav") or ())]
            changed = [replace_start(one, old, new) for one in paths]
            if changed == paths:
                report.num_unchanged += 1
            missing = "" if entry.get("shard") else _find_missing(changed, prefix)
            if missing:
                report.num_missing += 1
                report.first_missing = report.first_missing or missing
                continue
            extra = {"expand_wav": changed[1:]} if len(changed) > 1 else {}
            yield {**entry, "path": changed[0], **extra}
        if old and report.num_unchanged == report.num_read:
            raise UserError(f"no path of {path} starts with {old!r}; the first is {first_path!r}")
        if report.num_missing and not drops_missing:
            raise UserError(
                f"{report.num_missing} of {report.num_read} entries have no file; first: "
                f"{report.first_missing}; --drop-missing leaves them out"
            )

    report.num_written = save_entries(output, rewrite(), overwrite=overwrite, sources=[path])
    return report


def replace_start(path: str, old: str, new: str) -> str:
    """`path` with the folders `old` at its start replaced by `new`, if it starts with them."""
    inside, start = path.lstrip("/"), old.strip("/")
    if start and inside != start and not inside.startswith(f"{start}/"):
        return path
    rest = inside[len(start) :].lstrip("/")
    return f"{new.rstrip('/')}/{rest}" if new else rest


def _find_missing(paths: Iterable[str], prefix: str | None) -> str:
    if prefix is None:
        return ""
    places = (resolve_audio_path(prefix, path) for path in paths)
    return next((str(place) for place in places if not place.is_file()), "")


def _check_id(testset_id: str, path: str | Path, seen: set[int]) -> None:
    key = hash_parts(testset_id)
    if key in seen:
        raise UserError(
            f"{path}: testset_id {testset_id!r} is used before; --renumber gives new ones"
        )
    seen.add(key)
