"""What an annotation of N rows costs: its index, opening it, shuffling, and each loading process.

    python benchmarks/data_scale.py --rows 10000 10000000 --work DIR [--workers N] [--batches N]

In: nothing; annotations of the given lengths are made under DIR, all rows naming one short wav
file. Out: a table, and a JSON line per length. Each length is measured in a fresh process. Memory
of a loading process is what it has for itself (Private_Clean + Private_Dirty of smaps_rollup), and
next to it the proportional share (Pss), both after its batches; processes are forked, as on Linux
by default.
"""

import argparse
import json
import resource
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
COLUMNS = (
    ("rows", "{num_rows:,}"),
    ("file, MB", "{file_mb:,.0f}"),
    ("make the index, s (once)", "{index_seconds:.1f}"),
    ("open, s", "{open_seconds:.3f}"),
    ("mixture and sampler, s", "{plan_seconds:.2f}"),
    ("first batch of an epoch, s", "{first_batch_seconds:.2f}"),
    ("one random clip, ms", "{clip_ms:.3f}"),
    ("main process, peak MiB", "{main_peak_mib:,.0f}"),
    ("worker, private MiB", "{worker_private_mib:,.0f}"),
    ("worker, share MiB", "{worker_share_mib:,.0f}"),
)


def main() -> int:
    """Measure every length and print the table."""
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments)))
        return 0
    results = [run_in_fresh_process(num_rows, arguments) for num_rows in arguments.rows]
    for result in results:
        print(json.dumps(result))
    print("| " + " | ".join(name for name, _ in COLUMNS) + " |")
    print("|" + "---:|" * len(COLUMNS))
    for result in results:
        print("| " + " | ".join(text.format(**result) for _, text in COLUMNS) + " |")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000])
    parser.add_argument("--work", type=Path, required=True, help="folder for the annotations")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--batches", type=int, default=100, help="batches of 8 to load")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_fresh_process(num_rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    path = write_annotation(num_rows, arguments.work)
    command = [sys.executable, __file__, "--child", str(num_rows), "--work", str(arguments.work)]
    command += ["--workers", str(arguments.workers), "--batches", str(arguments.batches)]
    started = time.perf_counter()
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'audiolm-trainer')!r})\n"
        f"from audiolm.data.clip_index import open_index; open_index({str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    index_seconds = time.perf_counter() - started
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    return {"index_seconds": index_seconds, "file_mb": path.stat().st_size / 1e6, **result}


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
    started = time.perf_counter()
    clips = load_annotation(path, require_text=True)
    open_seconds = time.perf_counter() - started

    started = time.perf_counter()
    mixture = load_mixture([(str(path), 1.0)], seed=0)
    seconds = clip_seconds(mixture.clips, arguments.work)
    sampler = StepBatchSampler(
        seconds, step_size=BATCH_SIZE, seed=0, choose_clips=mixture.positions
    )
    plan_seconds = time.perf_counter() - started

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
        "num_rows": len(clips),
        "open_seconds": open_seconds,
        "plan_seconds": plan_seconds,
        "clip_ms": clip_ms,
        "first_batch_seconds": first_batch_seconds,
        "main_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_private_mib": max((private for private, _ in workers), default=0.0),
        "worker_share_mib": max((share for _, share in workers), default=0.0),
    }


def build_dataset(clips: Any, prefix: Path) -> Any:
    from audiolm.audio.features import LogMel
    from audiolm.data.dataset import AudioDataset

    return AudioDataset(clips, prefix, LogMel(80))


def read_memory_mib(process: int) -> tuple[float, float]:
    """Private memory and proportional share of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    values = {
        line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")
    }
    return values["Private_Clean"] + values["Private_Dirty"], values["Pss"]


if __name__ == "__main__":
    sys.exit(main())
