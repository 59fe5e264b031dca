"""Measure how fast a model answers, how much memory it takes, and what a lever costs in quality.

    python evaluate_efficiency_salmonn.py --cfg-path configs/salmonn_eval_config.yaml
    python evaluate_efficiency_salmonn.py --cfg-path X.yaml --audio clip.wav --num_it 50
    python evaluate_efficiency_salmonn.py --cfg-path X.yaml --seconds 5 10 30 --batch_sizes 1 2 4 8
    python evaluate_efficiency_salmonn.py --cfg-path X.yaml --compat     # the organiser's protocol
    python evaluate_efficiency_salmonn.py --sweep configs/sweep.yaml     # settings side by side
    python evaluate_efficiency_salmonn.py --sweep configs/sweep.yaml --resume auto

Time of each phase from file to text, time to first token (TTFT), time per output token (TPOT),
memory by phase, and each phase's share of what the machine can do. Greedy decoding of a fixed
number of tokens. Prints tables and writes a JSON with every raw sample, and a page, under
efficiency_results/. What each number means: docs/efficiency.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "audiolm-trainer"))

from audiolm.errors import UserError, run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from audiolm.config import Config

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "salmonn_eval_config.yaml"
NEEDED_PATHS = ("model.llama_path", "model.whisper_path", "model.test_prompt_path")
NEEDED_IF_SET = (
    "model.beats_path", "model.ckpt", "model.speech_llama_proj_model", "datasets.whisper_path",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Measure one configuration, or sweep over several."""
    args = parse_arguments(arguments)
    if args.sweep:
        return run_sweep(args)
    if args.resume:
        raise UserError("--resume goes with --sweep; one measurement is made in one go")
    return measure_one(args)


def measure_one(args: argparse.Namespace) -> int:
    """Configuration, clips, model, measurement, report."""
    # 1. Configuration, counts, clips: mistakes show before anything heavy is loaded
    config = load_efficiency_config(args)

    from audiolm.config_file import plain_config
    from audiolm.evaluation import roofline
    from audiolm.evaluation.efficiency import Repetition, list_cases, measure_cases
    from audiolm.evaluation.efficiency_inputs import ClipChoice, load_question
    from audiolm.evaluation.efficiency_page import save_page
    from audiolm.evaluation.efficiency_report import build_report, choose_report_path, save_report
    from audiolm.evaluation.efficiency_tables import format_report
    from audiolm.evaluation.machine import describe_machine, find_commit

    batch_sizes = tuple(args.batch_sizes or [args.batch_size])
    repetition = Repetition(args.num_it, args.num_warmup, args.new_tokens, batch_sizes)
    path = choose_report_path(args.out)
    choice = ClipChoice(args.audio or (), args.seconds or (), args.noise, args.seed)
    if args.compat:
        return measure_like_organiser(args, config, path)
    with tempfile.TemporaryDirectory(prefix="audiolm-") as folder:
        clips = choice.load(Path(folder))

        # 2. Model, and what the machine can do
        started = time.perf_counter()
        question = load_question(config, args.task)
        loading_seconds = time.perf_counter() - started
        embeddings = question.model.llm.get_input_embeddings().weight
        limits = roofline.measure_limits(embeddings.device, embeddings.dtype)

        # 3. Measurement
        cases = list_cases(clips, batch_sizes)
        with show_progress(len(cases) * (1 + repetition.num_warmup + repetition.num_it)) as bar:
            measured = measure_cases(question, cases, repetition, lambda kind: bar.update())

    # 4. Report
    context = {
        "settings": describe_settings(args, question.prompt, batch_sizes),
        "machine": describe_machine(embeddings.device),
        "commit": find_commit(),
        "config": plain_config(config),
        "model_loading_seconds": loading_seconds,
    }
    report = build_report(measured, question.model, limits, context)
    path = save_report(report, path)  # first: a broken pipe must not cost the measurement
    page = save_page(report, path)
    print(f"{format_report(report)}\n\nreport: {path}\npage:   {page}")
    return 0


def measure_like_organiser(args: argparse.Namespace, config: Config, path: Path) -> int:
    """`--compat`: their protocol, labelled as theirs."""
    from audiolm.config_file import plain_config
    from audiolm.evaluation.compat_protocol import (
        COMPAT_SECONDS,
        describe_compat,
        format_compat,
        measure_compat,
    )
    from audiolm.evaluation.efficiency_inputs import load_question
    from audiolm.evaluation.efficiency_report import save_report
    from audiolm.evaluation.machine import describe_machine, find_commit
    from audiolm.evaluation.timing_clip import build_noise_clip

    if args.audio or args.seconds or args.batch_sizes or args.batch_size != 1:
        raise UserError(
            "--compat measures 10 s of noise at batch 1 and nothing else; leave --audio, "
            "--seconds and --batch_sizes out"
        )
    question = load_question(config, args.task)
    noise = build_noise_clip(COMPAT_SECONDS, args.seed).samples
    with show_progress(args.num_warmup + args.num_it) as bar:
        samples = measure_compat(question, noise, args.num_it, args.num_warmup, bar.update)
    device = next(question.model.parameters()).device
    found = describe_compat(samples)
    context = {
        "machine": describe_machine(device),
        "commit": find_commit(),
        "config": plain_config(config),
    }
    path = save_report({**found, **context}, path)
    print(f"{format_compat(found, device.type == 'cuda')}\n\nreport: {path}")
    return 0


def run_sweep(args: argparse.Namespace) -> int:
    """`--sweep`: several settings on the same clips, speed beside quality."""
    from audiolm.evaluation.sweep import run_sweep_file

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    found = run_sweep_file(
        args.sweep, overrides, args.out, args.resume, lambda line: print(line, flush=True)
    )
    print(f"{found.text}\n\ntable:   {found.table_path}\npicture: {found.page_path}")
    return 1 if found.num_failed else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--cfg-path",
        type=Path,
        default=DEFAULT_CONFIG,
        help="YAML configuration file (configs/salmonn_eval_config.yaml)",
    )
    add("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    add("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    add("--num_it", type=int, default=100, help="measured answers per case (100)")
    add(
        "--num_warmup",
        type=int,
        default=10,
        help="answers before them, at least (10); more until the times are stable, at most five "
        "times as many; 0: none",
    )
    add("--new_tokens", type=int, default=64, help="length of an answer (64)")
    add("--batch_sizes", type=int, nargs="+", help="copies of the clip at once, a case for each")
    add("--batch_size", type=int, default=1, help="the same, one case (1)")
    add("--audio", nargs="+", help="audio files (a synthetic voice)")
    add("--seconds", type=float, nargs="+", help="lengths of the clips (10, or the whole file)")
    add("--noise", action="store_true", help="white noise in place of the synthetic voice")
    add("--seed", type=int, default=0, help="of voice or noise (0)")
    add("--task", default="asr", help="whose test prompt is asked (asr)")
    add("--compat", action="store_true", help="the competition organiser's protocol instead")
    add("--sweep", type=Path, help="YAML of settings to compare; --cfg-path is then in the YAML")
    add("--resume", default="", help="with --sweep: auto, or the folder of an interrupted one")
    add("--out", help="JSON to write, or folder of a sweep (dated, in efficiency_results/)")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def load_efficiency_config(args: argparse.Namespace) -> Config:
    """The configuration with everything the measurement reads in place."""
    from audiolm.config_file import load_config, resolve_input_paths

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    config = load_config(args.cfg_path, overrides)
    values = {"model": config.model, "datasets": config.datasets}
    given = [key for key in NEEDED_IF_SET if getattr(values[key.split(".")[0]], key.split(".")[1])]
    resolve_input_paths(config, args.cfg_path.resolve().parent, [*NEEDED_PATHS, *given])
    return config


def describe_settings(
    args: argparse.Namespace, prompt: str, batch_sizes: Sequence[int]
) -> dict[str, Any]:
    """What was asked for; overrides are in the configuration (and may hold the hub token)."""
    return {
        "cfg_path": str(args.cfg_path),
        "num_it": args.num_it,
        "num_warmup": args.num_warmup,
        "new_tokens": args.new_tokens,
        "batch_sizes": list(batch_sizes),
        "seed": None if args.audio else args.seed,
        "task": args.task,
        "prompt": prompt,
        "decoding": "greedy, fixed number of tokens, stop tokens excluded",
    }


def show_progress(num_answers: int) -> Any:
    """A bar on a terminal, nothing elsewhere; a longer warm-up goes past its end."""
    from tqdm import tqdm

    return tqdm(total=num_answers, desc="answers", unit="answer", disable=None)


if __name__ == "__main__":
    run_command(main)
