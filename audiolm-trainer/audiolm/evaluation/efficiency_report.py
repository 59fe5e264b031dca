"""The efficiency report: one JSON with every raw sample, and tables to read.

In: what was measured, and with what. Out: plain values, and a file that is written whole or not at
all and never over another.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from audiolm.errors import UserError
from audiolm.evaluation.efficiency import Case, Efficiency, FailedCase
from audiolm.evaluation.memory import measure_weights, measure_weights_by_type
from audiolm.evaluation.phase_memory import count_added_bytes
from audiolm.evaluation.roofline import MachineLimits, compute_roofline
from audiolm.evaluation.timing import is_stable, select_measured, summarise_measured
from audiolm.evaluation.workload import PHASES

FORMAT_VERSION = 2
RESULTS_FOLDER = "efficiency_results"


def build_report(
    measured: Sequence[Efficiency | FailedCase],
    model: nn.Module,
    limits: MachineLimits | None,
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything as plain values; `context` is put in front: settings, machine, configuration."""
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        **context,
        "weights_bytes": measure_weights(model),
        "weights_bytes_by_type": measure_weights_by_type(model),
        "limits": limits.as_dict() if limits else None,
        "cases": [
            describe_failure(found) if isinstance(found, FailedCase)
            else describe_efficiency(found, limits)
            for found in measured
        ],
    }  # fmt: skip


def describe_case(case: Case) -> dict[str, Any]:
    """Which clip, how often."""
    clip = case.clip
    return {
        "audio": {"source": clip.source, "seconds": clip.seconds, "was_cut": clip.was_cut},
        "batch_size": case.batch_size,
    }


def describe_failure(failed: FailedCase) -> dict[str, Any]:
    """A case without numbers."""
    return {**describe_case(failed.case), "error": failed.reason}


def describe_efficiency(found: Efficiency, limits: MachineLimits | None) -> dict[str, Any]:
    """A case's numbers."""
    iterations, outcome = found.iterations, found.outcome
    summary = summarise_measured(iterations)
    warm = [answer.total_seconds for kind, answer in iterations if kind == "warmup"]
    medians = {
        name: summary[f"{name}_seconds"]["p50"] or 0.0
        for name in PHASES
        if f"{name}_seconds" in summary
    }
    return {
        **describe_case(found.case),
        "lengths": {
            "num_audio_tokens": outcome.num_audio_tokens,
            "num_prompt_positions": outcome.num_prompt_positions,
            "num_cache_positions": outcome.num_cache_positions,
            "num_new_tokens": outcome.new_ids.shape[1],
        },
        "phases": [name for name in PHASES if name in medians],
        "summary": summary,
        "cold": next(answer.as_seconds() for kind, answer in iterations if kind == "cold"),
        "warmup": {"num": len(warm), "is_stable": is_stable(warm)},
        "throughput": compute_throughput(found),
        "memory": describe_memory(found),
        "counts": found.counts,
        "roofline": [
            vars(row) for row in (compute_roofline(found.counts, medians, limits) if limits else [])
        ],
        "text": outcome.texts[0],
        "iterations": [
            {"kind": kind, **answer.as_seconds(), "token_seconds": answer.token_seconds}
            for kind, answer in iterations
        ],
    }


def compute_throughput(found: Efficiency) -> dict[str, float]:
    """Rates over all measured answers, one after the other: file to text."""
    answers = select_measured(found.iterations)
    seconds = sum(answer.wall_seconds or answer.total_seconds for answer in answers)
    num_clips = len(answers) * found.case.batch_size
    return {
        "clips_per_second": num_clips / seconds,
        "new_tokens_per_second": num_clips * answers[0].num_new_tokens / seconds,
        "rtfx": num_clips * found.case.clip.seconds / seconds,
    }


def describe_memory(found: Efficiency) -> dict[str, Any]:
    """Peaks, and what the phases add at theirs: activations, and in the LLM's phases the cache."""
    outcome = found.outcome
    prompt_cache = outcome.cache_bytes * outcome.num_prompt_positions // outcome.num_cache_positions
    growth = {"prefill": prompt_cache, "decode": outcome.cache_bytes - prompt_cache}
    phases: dict[str, Any] = {}
    activations: list[int] = []
    for name, use in found.phase_memory.items():
        added = count_added_bytes(use)
        phases[name] = {**use.as_dict(), "added_bytes": added}
        if added is not None:
            activations.append(max(0, added - growth.get(name, 0)))
    return {
        "kv_cache_bytes": outcome.cache_bytes,
        "activations_peak_bytes": max(activations, default=None),
        **found.memory.as_dict(),
        "phases": phases,
    }


def choose_report_path(out: str | Path | None, now: datetime | None = None) -> Path:
    """Where the report will go: `out`, or a dated name under `efficiency_results/`.

    Raises:
        UserError: `out` is taken, or no file can be made there.
    """
    stamp = f"{now or datetime.now():%Y-%m-%d_%H-%M-%S}"
    path = Path(out) if out else Path(RESULTS_FOLDER) / f"{stamp}_efficiency.json"
    if path.suffix == ".html":
        raise UserError(f"--out {path}: the page gets that name; give the name of the JSON")
    taken = [name for name in (path, path.with_suffix(".html")) if out and name.exists()]
    if taken:
        raise UserError(f"--out {taken[0]}: already there and never overwritten; give another name")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--out {path}: cannot write in {folder}; give another path")
    return path


def save_report(report: Mapping[str, Any], path: Path) -> Path:
    """Write the JSON under a name that is free, and return it.

    The name gets a counter (`..._2.json`) when it was taken meanwhile. The file is written under
    another name, flushed to disk and renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished_path = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished_path.open("w", encoding="utf-8") as file:
            json.dump(report, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        path = reserve_name(path)
        os.replace(unfinished_path, path)
    finally:
        unfinished_path.unlink(missing_ok=True)
    return path


def reserve_name(path: Path) -> Path:
    """Create an empty file that was not there before; the rename then replaces only that."""
    free_path, counter = path, 2
    while True:
        try:
            free_path.touch(exist_ok=False)
        except FileExistsError:
            free_path = path.with_name(f"{path.stem}_{counter}{path.suffix}")
            counter += 1
        else:
            return free_path
