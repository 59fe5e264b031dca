"""What a run folder tells about its run: log without superseded lines, summary, samples.

In: a run folder. Out: a `RunHistory`. A run may be in full flight or killed at any moment, so a
file that is missing, cut short or older than this code never stops the reading; what could not be
read is told in `RunHistory.notes`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

Record = Mapping[str, Any]

MAX_DRAWABLE = 1e30  # a loss beyond it is as good as infinite, and no axis could show the rest


@dataclass
class RunHistory:
    """A run as it counts: lines that a resume has superseded are gone.

    `step` is the index of the step in `train` and `skip` lines and the number of steps done in all
    others.
    """

    name: str
    config_text: str = ""
    config: Record = field(default_factory=dict)
    train: list[Record] = field(default_factory=list)
    valid: list[Record] = field(default_factory=list)
    skips: list[Record] = field(default_factory=list)
    resumes: list[Record] = field(default_factory=list)
    stop: Record | None = None
    summary: Record | None = None  # only a finished run has one
    samples: list[Record] = field(default_factory=list)
    num_superseded: int = 0  # lines
    sessions: list[list[float]] = field(default_factory=list)  # first and last time, Unix seconds
    file_times: tuple[float, float] | None = None  # config.yaml and log.jsonl, Unix seconds
    notes: list[str] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        """Optimiser steps done, as far as the log tells."""
        done = [record["step"] + 1 for record in (*self.train[-1:], *self.skips[-1:])]
        done += [record["step"] for record in (*self.valid[-1:], *self.resumes[-1:])]
        return max(done, default=0)

    @property
    def last_logged(self) -> datetime | None:
        """When the last line was written."""
        if self.sessions:
            return datetime.fromtimestamp(self.sessions[-1][1])
        return datetime.fromtimestamp(self.file_times[1]) if self.file_times else None

    def measure_seconds(self) -> tuple[float, bool] | None:
        """Duration, and whether it holds pauses between sessions too.

        Lines with a `time` (Unix seconds) give the time at work. Without them the files' own times
        are all there is.
        """
        if self.sessions:
            return sum(last - first for first, last in self.sessions), False
        if self.file_times is None:
            return None
        return max(self.file_times[1] - self.file_times[0], 0.0), True

    def add(self, record: Record) -> None:
        """Take the next line of the log."""
        event, step = record["event"], record["step"]
        self._note_time(event, record.get("time"))
        if event == "resume":
            self._supersede(step)
            self.resumes.append(record)
        elif event == "train":
            if self.train and step <= self.train[-1]["step"]:
                self._supersede(step)  # an older log went on without a resume line
            self.train.append(record)
        elif event == "valid":
            if self.valid and step <= self.valid[-1]["step"]:
                self._drop("valid", step)
            self.valid.append(record)
        elif event == "skip":
            self.skips.append(record)
        if event == "stop":
            self.stop = record
        elif event in ("resume", "train"):
            self.stop = None

    def _supersede(self, num_steps: int) -> None:
        """The run went back to where `num_steps` steps were done."""
        self._drop("train", num_steps)
        self._drop("skips", num_steps)
        self._drop("valid", num_steps + 1)
        self._drop("resumes", num_steps + 1)

    def _drop(self, name: str, first: int) -> None:
        records = getattr(self, name)
        kept = [record for record in records if record["step"] < first]
        self.num_superseded += len(records) - len(kept)
        setattr(self, name, kept)

    def _note_time(self, event: str, time: Any) -> None:
        if not isinstance(time, (int, float)) or not 0 < time < 2**40:
            return
        if event == "resume" or not self.sessions:
            self.sessions.append([time, time])
        else:
            self.sessions[-1][1] = max(time, self.sessions[-1][1])


def read_history(folder: Path) -> RunHistory:
    """Read `config.yaml`, `log.jsonl`, `summary.json` and `samples.json`, those that are there."""
    history = RunHistory(folder.resolve().name)
    _read_config(folder / "config.yaml", history)
    _read_log(folder / "log.jsonl", history)
    summary = _read_json(folder / "summary.json", history)
    history.summary = summary if isinstance(summary, dict) else None
    samples = _read_json(folder / "samples.json", history)
    if isinstance(samples, list):
        history.samples = [sample for sample in samples if isinstance(sample, dict)]
    times = [
        path.stat().st_mtime
        for path in (folder / "config.yaml", folder / "log.jsonl")
        if path.is_file()
    ]
    history.file_times = (times[0], times[1]) if len(times) == 2 else None
    return history


def find_number(record: Record, *keys: str) -> float | None:
    """The number at `record[key][key]...`; None when something else, or nothing, is there."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else math.nan  # an integer may be beyond any float


def is_drawable(value: float) -> bool:
    """Whether a number can be put on an axis next to others."""
    return math.isfinite(value) and abs(value) < MAX_DRAWABLE


def _read_config(path: Path, history: RunHistory) -> None:
    if not path.is_file():
        history.notes.append("There is no config.yaml.")
        return
    history.config_text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(history.config_text)
    except yaml.YAMLError:
        history.notes.append("config.yaml is not valid YAML.")
        return
    history.config = config if isinstance(config, dict) else {}
    run = history.config.get("run")
    name = run.get("exp_name") if isinstance(run, dict) else None
    history.name = str(name) if name else history.name


def _read_log(path: Path, history: RunHistory) -> None:
    if not path.is_file():
        return
    num_damaged = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            record = _parse_line(line)
            num_damaged += (record is None or record[1]) and bool(line.strip())
            if record is not None:
                history.add(record[0])
    if num_damaged:
        lines = "1 line" if num_damaged == 1 else f"{num_damaged} lines"
        history.notes.append(f"log.jsonl: {lines} cut short or not of a run's log.")


def _parse_line(line: str) -> tuple[Record, bool] | None:
    """A line's record, and whether something was lost before it.

    A kill leaves half a line behind, to which the resumed run appends its first: that one counts.
    """
    for start in (0, line.rfind('{"event"')):
        if start < 0:
            continue
        try:
            record = json.loads(line[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("event"), str):
            step = record.get("step")
            if isinstance(step, int) and 0 <= step < 10**15:
                return record, start > 0
    return None


def _read_json(path: Path, history: RunHistory) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not UTF-8
        history.notes.append(f"{path.name} is not valid JSON.")
        return None
