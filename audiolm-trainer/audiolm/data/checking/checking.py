"""Check an annotation: every entry, every text, every clip's samples, and clips that are the same.

In: an annotation and its prefix. Out: `CheckReport`, and on demand a cleaned annotation. Of every
clip only some numbers are kept, so that the length of the annotation hardly matters.
"""

import functools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiolm.data.checking.clips import inspect_entry
from audiolm.data.checking.journal import Journal
from audiolm.data.checking.problems import SEVERITIES, ClipFacts, Problem
from audiolm.data.clips import find_problem
from audiolm.data.entries import Entry, iterate_entries, save_entries
from audiolm.data.identity import compute_clip_key, compute_entry_key, hash_parts
from audiolm.data.parallel import map_in_processes
from audiolm.data.shard_reading import ShardStore


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        num_clips: entries in the annotation.
        seconds: length of the readable clips together.
        problems: position in the annotation -> what is wrong there, for entries with problems.
        names: the same positions -> the entries' paths.
        rates_hz, channels: value -> number of clips.
        num_resumed: clips whose results an earlier, interrupted check had left.
    """

    num_clips: int = 0
    seconds: float = 0.0
    problems: dict[int, list[Problem]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    rates_hz: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    num_resumed: int = 0

    def count_kinds(self) -> dict[str, int]:
        """Kind of problem -> number of entries that have it, the worst first."""
        counts = Counter(
            kind for found in self.problems.values() for kind in {p.kind for p in found}
        )
        return {kind: counts[kind] for kind in SEVERITIES if counts[kind]}

    def count_severity(self, severity: str) -> int:
        """Number of entries with a problem of this severity."""
        return sum(
            any(SEVERITIES[problem.kind][0] == severity for problem in found)
            for found in self.problems.values()
        )


def check_annotation(
    path: str | Path,
    *,
    prefix: str = "",
    num_processes: int = 1,
    state_path: str | Path | None = None,
    report_progress: Callable[[int], None] = lambda num_clips: None,
) -> CheckReport:
    """Decode every clip and compare them all.

    Args:
        path: the annotation.
        prefix: folder that its paths start from.
        num_processes: processes that decode.
        state_path: where results are kept until the check is finished; None: beside the annotation.
        report_progress: called with the number of clips so far.

    Raises:
        UserError: the annotation cannot be read, or the state cannot be kept.
    """
    path = Path(path)
    next(iterate_entries(path), None)  # what is no annotation at all is told before any state
    journal = Journal(Path(state_path or f"{path}.check-state.jsonl"), path, prefix)
    report = CheckReport()
    comparison = _Comparison()
    for facts in journal.read():
        _take(facts, report, comparison)
        report.num_resumed += 1
    report_progress(report.num_clips)
    rows = ((index, row) for index, row in enumerate(iterate_entries(path)))
    left = (pair for pair in rows if pair[0] >= report.num_resumed)
    work = functools.partial(inspect_chunk, prefix)
    with journal:
        for results in map_in_processes(work, left, num_processes):
            journal.add(results)
            for facts in results:
                _take(facts, report, comparison)
            report_progress(report.num_clips)
    _compare(path, report, comparison)
    return report


def inspect_chunk(prefix: str, rows: list[tuple[int, Any]]) -> list[ClipFacts]:
    """`inspect_entry` of several entries: what a process is given at a time."""
    store = ShardStore(prefix)
    return [inspect_entry(index, row, prefix, store) for index, row in rows]


def choose_dropped(report: CheckReport, kinds: Iterable[str]) -> dict[int, list[Problem]]:
    """Entries that have a problem of one of the kinds, with those problems."""
    wanted = set(kinds)
    chosen = {
        index: [problem for problem in found if problem.kind in wanted]
        for index, found in report.problems.items()
    }
    return {index: found for index, found in chosen.items() if found}


def save_cleaned(
    path: str | Path,
    output: str | Path,
    dropped: dict[int, list[Problem]],
    *,
    overwrite: bool = False,
) -> int:
    """Write the annotation without some entries, and those with the reasons beside it.

    Returns:
        The number of entries kept. What went is in `name_dropped_list(output)`.

    Raises:
        UserError: nothing is left, or a file cannot be written.
    """

    def list_dropped() -> Iterator[Entry]:
        for index, row in enumerate(iterate_entries(path)):
            if index in dropped:
                reasons = [f"{kind}: {detail}".rstrip(": ") for kind, detail in dropped[index]]
                yield {"index": index, "reasons": reasons, "entry": row}

    kept = (row for index, row in enumerate(iterate_entries(path)) if index not in dropped)
    num_kept = save_entries(output, kept, overwrite=overwrite, sources=[path])
    if dropped:
        save_entries(name_dropped_list(output), list_dropped(), overwrite=overwrite, sources=[path])
    return num_kept


def name_dropped_list(output: str | Path) -> Path:
    """`x.dropped.jsonl` for `x.json`."""
    path = Path(output)
    return path.with_name(f"{path.name.partition('.')[0]}.dropped.jsonl")


@dataclass
class _Comparison:
    """One number per clip, by which clips with the same samples are found."""

    fingerprints: array = field(default_factory=lambda: array("q"))


def _take(facts: ClipFacts, report: CheckReport, comparison: _Comparison) -> None:
    assert facts.index == report.num_clips
    report.num_clips += 1
    report.seconds += facts.seconds
    if facts.problems:
        report.problems[facts.index] = list(facts.problems)
    if facts.rate_hz:
        report.rates_hz[facts.rate_hz] += 1
        report.channels[facts.num_channels] += 1
    comparison.fingerprints.append(facts.fingerprint)


def _compare(path: Path, report: CheckReport, comparison: _Comparison) -> None:
    """Find entries that repeat others, and the paths of entries with problems."""
    ids, audio, clips = array("q"), array("q"), array("q")
    fingerprints = comparison.fingerprints
    for index, row in enumerate(iterate_entries(path)):
        is_whole = find_problem(row) is None
        testset_id = row.get("testset_id") if is_whole else None
        key = compute_entry_key(row) if is_whole else hash_parts("malformed", index)
        ids.append(hash_parts("id", testset_id) if testset_id else key)
        question = (row.get("task"), row.get("Q")) if is_whole else ()
        has_audio = is_whole and fingerprints[index] != 0
        audio.append(hash_parts(fingerprints[index] if has_audio else f"none{index}", *question))
        clips.append(compute_clip_key(row) if is_whole else index)
    for index, first in find_repeats(np.asarray(ids)).items():
        report.problems.setdefault(index, []).append(
            Problem("duplicate_id", f"as annotation[{first}]")
        )
    for index, first in find_repeats(np.asarray(audio)).items():
        if clips[index] != clips[first]:
            report.problems.setdefault(index, []).append(
                Problem("duplicate_audio", f"as annotation[{first}]")
            )
    for index, row in enumerate(iterate_entries(path)):
        if index in report.problems:
            report.names[index] = str(row.get("path", "")) if isinstance(row, dict) else ""
    report.problems = dict(sorted(report.problems.items()))


def find_repeats(keys: np.ndarray) -> dict[int, int]:
    """Positions whose key occurred before -> the first position that has it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = order[is_first][np.cumsum(is_first) - 1]
    repeats = ~is_first
    return dict(zip(order[repeats].tolist(), starts[repeats].tolist(), strict=True))
