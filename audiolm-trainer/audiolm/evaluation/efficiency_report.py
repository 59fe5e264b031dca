"""The efficiency report: one JSON with every raw sample, and a table to read.

In: `Efficiency` and what it was measured with. Out: plain values, text, a file that is written
whole or not at all and never over another.
"""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from audiolm.errors import UserError
from audiolm.evaluation.efficiency import Efficiency
from audiolm.evaluation.timing import summarise_measured

FORMAT_VERSION = 1
RESULTS_FOLDER = "efficiency_results"
MIB = 2**20
COLUMNS = ("mean", "std", "min", "p50", "p90", "p99")
INDENTED = ("log_mel", "encode", "prompt", "prefill")  # they make up the TTFT
ROWS = (*INDENTED, "ttft", "decode", "tpot", "total")
LABELS = {"ttft": "TTFT", "tpot": "TPOT"}


def build_report(efficiency: Efficiency, context: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain values; `context` is put in front: settings, machine, configuration."""
    iterations = efficiency.iterations
    outcome = efficiency.outcome
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        **context,
        "lengths": {
            "num_audio_tokens": outcome.num_audio_tokens,
            "num_prompt_positions": outcome.num_prompt_positions,
            "num_cache_positions": outcome.num_cache_positions,
            "num_new_tokens": outcome.new_ids.shape[1],
        },
        "summary": summarise_measured(iterations),
        "cold": next(answer.as_seconds() for kind, answer in iterations if kind == "cold"),
        "memory": {
            "weights_bytes": efficiency.weights_bytes,
            "weights_bytes_by_type": efficiency.weights_bytes_by_type,
            "kv_cache_bytes": outcome.cache_bytes,
            **efficiency.memory.as_dict(),
        },
        "iterations": [{"kind": kind, **answer.as_seconds()} for kind, answer in iterations],
    }


def format_report(report: Mapping[str, Any]) -> str:
    """The report as a table: times in ms, memory in MiB."""
    settings, machine, audio = report["settings"], report["machine"], report["audio"]
    lengths, memory = report["lengths"], report["memory"]
    types = " + ".join(memory["weights_bytes_by_type"])
    cut = " (cut)" if audio["was_cut"] else ""
    lines = [
        f"{machine['device']} ({machine['device_name']}), {machine['num_threads']} threads, "
        f"torch {machine['packages']['torch']}, weights {types}",
        f"clip: {audio['source']}, {audio['seconds']:.2f} s{cut}; batch {settings['batch_size']}; "
        f"{lengths['num_audio_tokens']} audio tokens in {lengths['num_prompt_positions']} prompt "
        f"positions; {lengths['num_new_tokens']} new tokens, greedy",
        f"{settings['num_it']} measured answers after a cold one and {settings['num_warmup']} "
        "to warm up",
        "",
        *_format_times(report),
        "",
        f"{'memory':34}{'MiB':>10}",
        *[
            _format_bytes(f"weights: {part.replace('_', ' ')}", size)
            for part, size in memory["weights_bytes"].items()
        ],
        _format_bytes(
            f"KV cache, {lengths['num_cache_positions']} positions", memory["kv_cache_bytes"]
        ),
        _format_bytes("process: before the answers", memory["process_before_bytes"]),
        _format_bytes("process: peak of the answers", memory["process_peak_bytes"]),
        _format_bytes("process: after the answers", memory["process_after_bytes"]),
    ]
    if machine["device"] != "cpu":
        lines += [
            _format_bytes("GPU: before the answers", memory["gpu_before_bytes"]),
            _format_bytes("GPU: peak allocated", memory["gpu_peak_allocated_bytes"]),
            _format_bytes("GPU: peak reserved", memory["gpu_peak_reserved_bytes"]),
        ]
    return "\n".join(lines)


def _format_times(report: Mapping[str, Any]) -> list[str]:
    lines = ["time, ms".ljust(14) + "".join(f"{name:>10}" for name in (*COLUMNS, "cold"))]
    for row in ROWS:
        name = f"{row}_seconds"
        values = [report["summary"][name][column] for column in COLUMNS] + [report["cold"][name]]
        label = LABELS.get(row, row.replace("_", "-"))
        label = f"  {label}" if row in INDENTED else label
        cells = ["-" if value is None else f"{1000 * value:.2f}" for value in values]
        lines.append(label.ljust(14) + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _format_bytes(label: str, size: int | None) -> str:
    amount = "not measured" if size is None else f"{size / MIB:.1f}"
    return f"  {label:32}{amount:>10}"


def choose_report_path(out: str | Path | None, now: datetime | None = None) -> Path:
    """Where the report will go: `out`, or a dated name under `efficiency_results/`.

    Raises:
        UserError: `out` is taken, or no file can be made there.
    """
    stamp = f"{now or datetime.now():%Y-%m-%d_%H-%M-%S}"
    path = Path(out) if out else Path(RESULTS_FOLDER) / f"{stamp}_efficiency.json"
    if out and path.exists():
        raise UserError(f"--out {path}: already there and never overwritten; give another name")
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
        path = _reserve_name(path)
        os.replace(unfinished_path, path)
    finally:
        unfinished_path.unlink(missing_ok=True)
    return path


def _reserve_name(path: Path) -> Path:
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
