"""What an annotation of N rows costs: its index, opening it, shuffling, and each loading process.

    python benchmarks/data_scale.py --work DIR [--rows N N] [--workers N] [--batches N] [--out JSON]

In: nothing; annotations of the given lengths are made under DIR, all rows naming one short wav
file, and removed when they are done with. Out: a table, and a JSON that `data_tables.py` makes the
table and the plot of again. Each length is measured in a fresh process. Memory of a loading process
is what it has for itself (Private_Clean + Private_Dirty of smaps_rollup), and next to it the
proportional share (Pss), both after its batches; processes are forked, as on Linux by default.
Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "audiolm-trainer"))

BATCH_SIZE = 8
CLIP_SECONDS = 1.0
SAMPLE_RATE_HZ = 16_000
AUDIO_NAME = "clip.wav"
INDEX_PROGRAM = """
import json, sys, time
from audiolm.data.clip_index import open_index
started = time.perf_counter()
open_index(sys.argv[1])
seconds = time.perf_counter() - started
from data_scale import read_peak_mib
print(json.dumps({"index_seconds": seconds, "index_peak_mib": read_peak_mib()}))
"""
NUM_OPENINGS = 5  # of which the median counts
DEFAULT_ROWS = [10**power for power in range(3, 8)]


def main() -> int:
    """Measure every length, print the table and write the JSON."""
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments)))
        return 0
    from data_tables import format_scale
    from midsize import describe_start
    from torch import device

    from audiolm.evaluation.machine import describe_machine, find_commit

    report = {
        "benchmark": "data_scale",
        **describe_start(),
        "settings": {"workers": arguments.workers, "batches": arguments.batches},
        "machine": describe_machine(device("cpu")),
        "commit": find_commit(),
        "rows": [run_in_fresh_process(num_rows, arguments) for num_rows in arguments.rows],
    }
    out = arguments.out or arguments.work / "data_scale.json"
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{format_scale(report)}\n{out}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=DEFAULT_ROWS)
    parser.add_argument("--work", type=Path, required=True, help="folder for the annotations")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--batches", type=int, default=100, help="batches of 8 to load")
    parser.add_argument("--out", type=Path, help="JSON to write (data_scale.json in DIR)")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_fresh_process(num_rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"{num_rows:,} rows", file=sys.stderr)
    path = write_annotation(num_rows, arguments.work)
    indexed = run_python("-c", INDEX_PROGRAM, str(path))
    options = ["--work", str(arguments.work), "--child", str(num_rows)]
    options += ["--workers", str(arguments.workers), "--batches", str(arguments.batches)]
    result = {"file_mb": path.stat().st_size / 1e6, **indexed, **run_python(__file__, *options)}
    path.unlink()
    shutil.rmtree(f"{path}.index")
    return result


def run_python(*arguments: str) -> dict[str, Any]:
    """The JSON object on the last line that a Python process prints."""
    folders = f"{ROOT / 'audiolm-trainer'}{os.pathsep}{ROOT / 'benchmarks'}"
    variables = {**os.environ, "PYTHONPATH": folders}
    finished = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=variables
    )
    return json.loads(finished.stdout.splitlines()[-1])


def write_annotation(num_rows: int, folder: Path) -> Path:
    """JSON lines with texts and lengths such as speech corpora have; made anew each time."""
    folder.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(CLIP_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    soundfile.write(folder / AUDIO_NAME, 0.1 * np.sin(2000 * times), SAMPLE_RATE_HZ)
    path = folder / f"rows_{num_rows}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            task = "asr" if number % 5 else "audiocaption_v2"
            text = f"clip number {number} says a dozen words so that lines are of a real length"
            seconds = 1 + number % 2900 / 100
            row = {"path": AUDIO_NAME, "text": text, "task": task, "duration": seconds}
            file.write(json.dumps({**row, "sid": f"POD{number:012d}"}) + "\n")
    return path


def measure(num_rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Open, shuffle and load, all as training does it."""
    from audiolm.data.annotations import load_annotation
    from audiolm.data.batches import build_loader, clip_seconds
    from audiolm.data.mixture import load_mixture
    from audiolm.data.sampler import StepBatchSampler

    path = arguments.work / f"rows_{num_rows}.jsonl"
    load_annotation(path, require_text=True)  # imports what it needs
    openings = []
    for _ in range(NUM_OPENINGS):
        started = time.perf_counter()
        load_annotation(path, require_text=True)
        openings.append(time.perf_counter() - started)

    started = time.perf_counter()
    mixture = load_mixture([(str(path), 1.0)], seed=0)
    seconds = clip_seconds(mixture.clips, arguments.work)
    sampler = StepBatchSampler(
        seconds, step_size=BATCH_SIZE, seed=0, choose_clips=mixture.positions
    )
    plan_seconds = time.perf_counter() - started

    started = time.perf_counter()
    next(iter(sampler))
    shuffle_seconds = time.perf_counter() - started

    positions = np.random.default_rng(0).integers(0, num_rows, 2000).tolist()
    started = time.perf_counter()
    for position in positions:
        mixture.clips[position]
    clip_ms = (time.perf_counter() - started) / len(positions) * 1e3

    dataset = build_dataset(mixture.clips, arguments.work)
    loader = build_loader(dataset, sampler, arguments.workers)
    started = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_batch_seconds = time.perf_counter() - started
    for _ in range(arguments.batches - 1):
        next(batches)
    workers = [read_memory_mib(worker.pid) for worker in getattr(batches, "_workers", [])]
    return {
        "num_rows": len(mixture.clips),
        "open_seconds": statistics.median(openings),
        "plan_seconds": plan_seconds,
        "shuffle_seconds": shuffle_seconds,
        "clip_ms": clip_ms,
        "first_batch_seconds": first_batch_seconds,
        "main_peak_mib": read_peak_mib(),
        "worker_private_mib": [private for private, _ in workers],
        "worker_share_mib": [share for _, share in workers],
    }


def build_dataset(clips: Any, prefix: Path) -> Any:
    from audiolm.audio.features import LogMel
    from audiolm.data.dataset import AudioDataset

    return AudioDataset(clips, prefix, LogMel(80))


def read_peak_mib() -> float:
    """Highest resident memory of this process; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def read_memory_mib(process: int) -> tuple[float, float]:
    """Private memory and proportional share of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    values = {
        line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")
    }
    return values["Private_Clean"] + values["Private_Dirty"], values["Pss"]


if __name__ == "__main__":
    sys.exit(main())
