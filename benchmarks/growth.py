"""How time and memory of an answer grow with audio length, batch and new tokens.

    python benchmarks/growth.py                       # 6 minutes on two idle cores, then plots
    python benchmarks/growth.py --size tiny --repeats 1 --out x.json --plots FOLDER
    python benchmarks/growth.py --draw RESULT.json    # the plots again
    python benchmarks/growth.py --page docs/benchmarks.md --out benchmarks/results/growth_DATE.json

The mid-size stack with random weights (`stack.py`), in its modes `exact` and `light`, each in a
process of its own. Out: a JSON with every sample, `growth_seconds.svg`, `growth_batch.svg` and
`growth_tokens.svg`, and the slopes: of a straight line through the medians. Memory is what the
process needed at its peak on top of what was there before the answers. MB are 10^6 bytes. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from data_tables import replace_section
from growth_plots import AXES, describe_run, draw_growth, format_growth
from midsize import WORK_DIR, build_inputs, describe_start
from stack import PROMPT, QFORMERS, Setup, build_model

from audiolm.errors import UserError, run_command

MODES = ("exact", "light")
SECONDS = (1, 2, 5, 10, 15, 20, 30)
BATCHES = (1, 2, 4, 8, 16)
TOKENS = (16, 32, 64, 128, 256)
USUAL_SECONDS, USUAL_TOKENS = 10, 16
IMG_DIR = Path(__file__).resolve().parents[1] / "img"


def main(arguments: Sequence[str]) -> int:
    """Measure a mode in this process, or all in processes of their own."""
    args = parse_arguments(arguments)
    setup = Setup(args.work, args.size, args.repeats, "eager")
    if args.mode:
        print(json.dumps(measure_mode(args.mode, setup)))
        return 0
    if args.draw:
        report = json.loads(args.draw.read_text(encoding="utf-8"))
    else:
        report = run_modes(args, setup)
        out = args.out or args.work / "growth.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(out)
    args.plots.mkdir(parents=True, exist_ok=True)
    for axis in AXES:
        path = args.plots / f"growth_{axis}.svg"
        path.write_text(draw_growth(report, axis), encoding="utf-8")
    text = format_growth(report)
    if args.page:
        page = args.page.read_text(encoding="utf-8")
        told = describe_run(report, args.draw or args.out or args.work / "growth.json")
        pictures = "\n".join(f"![{axis}](../img/growth_{axis}.svg)" for axis in AXES)
        content = f"{told}\n\n{text}\n\n{pictures}\n"
        args.page.write_text(replace_section(page, "growth", content), encoding="utf-8")
    print(text)
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=tuple(QFORMERS), default="midsize", help="(midsize)")
    parser.add_argument("--repeats", type=int, default=3, help="measured answers per point (3)")
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS (2)")
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="folder of stack and clips")
    parser.add_argument("--out", type=Path, help="JSON to write (growth.json in the work folder)")
    parser.add_argument("--plots", type=Path, default=IMG_DIR, help="folder of the plots (img)")
    parser.add_argument("--page", type=Path, help="put slopes and plots into this page, too")
    parser.add_argument("--draw", type=Path, help="draw the plots of this JSON; measure nothing")
    parser.add_argument("--mode", choices=MODES, help="measure this mode in this process")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    if min(args.repeats, args.threads) < 1:
        raise UserError("--repeats and --threads must be at least 1")
    return args


def run_modes(args: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """Build the stack, then each mode in a fresh process."""
    report: dict[str, Any] = {**describe_start(), "size": args.size, "repeats": args.repeats}
    build_inputs(setup)
    from torch import device

    from audiolm.evaluation.machine import describe_machine, find_commit

    report |= {"machine": describe_machine(device("cpu")), "commit": find_commit()}
    report["machine"]["num_threads"] = args.threads
    variables = {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    variables |= {"TOKENIZERS_PARALLELISM": "false"}
    points = []
    for mode in MODES:
        command = [sys.executable, __file__, "--mode", mode, "--size", args.size]
        command += ["--repeats", str(args.repeats), "--work", str(args.work)]
        print(f"growth: {mode}", file=sys.stderr)
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"{mode} ended with {done.returncode}: {done.stderr[-2000:]}")
        points += json.loads(done.stdout.splitlines()[-1])
    return {**report, "points": points}


def measure_mode(mode: str, setup: Setup) -> list[dict[str, Any]]:
    """Every point of every axis, the model loaded once."""
    from audiolm.audio.features import LogMel

    model = build_model(mode, setup)
    log_mel = LogMel.from_pretrained(setup.stack_dir / "whisper")
    points = []
    for axis, values in (("tokens", TOKENS), ("seconds", SECONDS), ("batch", BATCHES)):
        for value in values:
            usual = {"seconds": USUAL_SECONDS, "batch": 1, "tokens": USUAL_TOKENS}
            asked = {**usual, axis: value}
            measured = measure_point(model, log_mel, asked, setup.repeats)
            points.append({"mode": mode, "axis": axis, "value": value, **measured})
    return points


def measure_point(
    model: Any, log_mel: Any, asked: dict[str, int], num_repeats: int
) -> dict[str, Any]:
    """One call to warm up, then the repeats: medians, every sample, memory."""
    from audiolm.evaluation.memory import PeakMeter
    from audiolm.evaluation.phase_memory import count_added_bytes
    from audiolm.evaluation.timing_clip import build_synthetic_clip
    from audiolm.evaluation.workload import Workload

    clip = build_synthetic_clip(float(asked["seconds"]), seed=0)
    workload = Workload(
        model,
        log_mel,
        clip.samples,
        PROMPT,
        num_new_tokens=asked["tokens"],
        batch_size=asked["batch"],
    )
    workload.answer()
    meter = PeakMeter(workload.device)
    answers = [workload.answer() for _ in range(num_repeats)]
    added = count_added_bytes(meter.read())
    samples = {
        "ttft_seconds": [answer.ttft_seconds for answer in answers],
        "decode_seconds": [answer.phase_seconds["decode"] for answer in answers],
        "total_seconds": [answer.total_seconds for answer in answers],
    }
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {**medians, "added_mb": None if added is None else added / 1e6, "samples": samples}


if __name__ == "__main__":
    run_command(main)
