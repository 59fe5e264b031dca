"""Time the mid-size stack: building it, a training step, an answer, a file.

    python benchmarks/midsize.py all                          # 8 minutes on two idle cores
    python benchmarks/midsize.py train --rounds 1 --repeats 2
    python benchmarks/midsize.py infer --way light            # one way, in this process

Random weights and clips from seeds are kept under `--work`. Each way of doing a task is measured
in processes of its own, the ways in turn, `--rounds` times: ours (in its modes `exact` and `light`)
and `plain` (see `plain.py`). Out: tables, and a JSON with every sample. MB are 10^6 bytes. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from measure import measure
from stack import (
    BATCH_SIZE,
    CLIP_SECONDS,
    FILE_RATES_HZ,
    QFORMERS,
    TEXTS,
    WAYS,
    Setup,
    store_features,
)

from audiolm.errors import UserError, run_command

WORK_DIR = Path(__file__).resolve().parents[1] / "cache" / "benchmarks"
IDLE_LOAD = 0.5


def main(arguments: Sequence[str]) -> int:
    """Measure one way here, or everything asked for in processes of its own."""
    args = parse_arguments(arguments)
    if args.way is None:
        return run_benchmarks(args)
    samples = measure(args.task, args.way, build_setup(args))

    from torch import get_num_threads

    print(json.dumps({"num_threads": get_num_threads(), "samples": samples}))
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=(*WAYS, "all"))
    parser.add_argument("--size", choices=tuple(QFORMERS), default="midsize", help="(midsize)")
    parser.add_argument("--rounds", type=int, default=3, help="processes per way (3)")
    parser.add_argument("--repeats", type=int, default=3, help="measured calls per process (3)")
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS (2)")
    parser.add_argument(
        "--plain-attention", choices=("eager", "sdpa"), default="eager", help="Whisper's (eager)"
    )
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="folder")
    parser.add_argument("--out", type=Path, help="JSON to write (TASK.json in the work folder)")
    parser.add_argument("--way", help="measure this way in this process: ours, exact, light, plain")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    if args.way is not None and args.way not in WAYS.get(args.task, ()):
        raise UserError(f"--way {args.way}: {args.task} has {WAYS.get(args.task, 'no ways')}")
    if min(args.rounds, args.repeats, args.threads) < 1:
        raise UserError("--rounds, --repeats and --threads must be at least 1")
    return args


# The run: processes in turn


def run_benchmarks(args: argparse.Namespace) -> int:
    """Build the stack, measure task by task, write the JSON, print tables."""
    started = describe_start()
    build_inputs(build_setup(args))
    processes = []
    for task in WAYS if args.task == "all" else (args.task,):
        num_turns = args.rounds * (args.repeats if task == "construct" else 1)
        for turn in range(num_turns):
            for way in WAYS[task]:
                print(f"{task} {way}, {turn + 1} of {num_turns}", file=sys.stderr)
                processes.append(run_process(args, task, way))

    from tables import format_tables
    from torch import device

    from audiolm.evaluation.machine import describe_machine, find_commit

    settings = {name: getattr(args, name) for name in ("task", "size", "rounds", "repeats")}
    settings |= {"omp_num_threads": args.threads, "plain_attention": args.plain_attention}
    num_threads = {process.pop("num_threads") for process in processes}
    report = {
        **started,
        "settings": settings,
        "machine": describe_machine(device("cpu")) | {"num_threads": max(num_threads)},
        "commit": find_commit(),
        "others_busy_max_cores": max(process["others_busy_cores"] for process in processes),
        "medians": compute_medians(processes),
        "processes": processes,
    }
    out = args.out or args.work / f"{args.task}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{format_tables(report)}\n{out}")
    return 0


def describe_start() -> dict[str, Any]:
    """Date and load average; warns when the machine is not idle."""
    load_average = os.getloadavg()
    if load_average[0] > IDLE_LOAD:
        print(f"warning: load average {load_average[0]:.2f}: not idle", file=sys.stderr)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average_1_5_15_min": list(load_average),
    }


def build_setup(args: argparse.Namespace) -> Setup:
    return Setup(args.work, args.size, args.repeats, args.plain_attention)


def build_inputs(setup: Setup) -> None:
    """Write the stack, unless it is there, the clips, and their encoder outputs."""
    import soundfile
    import soxr

    from audiolm.evaluation.timing_clip import build_synthetic_clip
    from audiolm.models.random_stack import STACK_SIZES, build_random_stack

    build_random_stack(setup.stack_dir, STACK_SIZES[setup.size], texts=TEXTS, seed=0)
    for rate_hz in FILE_RATES_HZ:
        for index in range(BATCH_SIZE):
            samples = build_synthetic_clip(CLIP_SECONDS, seed=index).samples
            path = setup.work / setup.clip_name(index, rate_hz)
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, soxr.resample(samples, FILE_RATES_HZ[0], rate_hz), rate_hz)
    store_features(setup)


def run_process(args: argparse.Namespace, task: str, way: str) -> dict[str, Any]:
    """Measure one way in a fresh process; also what the rest of the machine did meanwhile."""
    command = [sys.executable, __file__, task, "--way", way]
    for name in ("size", "repeats", "threads", "plain_attention", "work"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    variables = {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    variables |= {"TOKENIZERS_PARALLELISM": "false"}
    started, busy, own = time.perf_counter(), read_busy_seconds(), read_child_seconds()
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{task} {way} ended with status {done.returncode}: {done.stderr[-2000:]}")
    others_seconds = read_busy_seconds() - busy - (read_child_seconds() - own)
    return {
        "task": task,
        "others_busy_cores": round(others_seconds / (time.perf_counter() - started), 3),
        **json.loads(done.stdout.splitlines()[-1]),  # num_threads; samples: way -> name -> values
    }


def read_busy_seconds() -> float:
    """Processor time of the whole machine that was not idle, since it started (Linux)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def read_child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compute_medians(processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all processes: task -> way -> name -> value."""
    pooled: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for process in processes:
        for way, samples in process["samples"].items():
            for name, values in samples.items():
                pooled[process["task"]][way][name] += values
    return {
        task: {
            way: {name: statistics.median(values) for name, values in names.items()}
            for way, names in ways.items()
        }
        for task, ways in pooled.items()
    }


if __name__ == "__main__":
    run_command(main)
