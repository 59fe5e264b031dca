"""Measure how fast a model answers and how much memory it takes.

    python evaluate_efficiency_salmonn.py --cfg-path configs/salmonn_eval_config.yaml
    python evaluate_efficiency_salmonn.py --cfg-path X.yaml --num_it 20 --audio clip.wav
    python evaluate_efficiency_salmonn.py --cfg-path X.yaml --device cuda:0 --batch_size 4

Time to first token (TTFT), time per output token (TPOT), total, memory. Greedy decoding of a fixed
number of tokens on one clip. Prints a table and writes a JSON with every raw sample under
efficiency_results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "audiolm-trainer"))

from audiolm.errors import run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from audiolm.config import Config
    from audiolm.evaluation.efficiency import Repetition, Workload
    from audiolm.evaluation.timing_clip import TimingClip

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "salmonn_eval_config.yaml"
NEEDED_PATHS = ("model.llama_path", "model.whisper_path", "model.test_prompt_path")
NEEDED_IF_SET = (
    "model.beats_path", "model.ckpt", "model.speech_llama_proj_model", "datasets.whisper_path",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Configuration, clip, model, measurement, report."""
    args = parse_arguments(arguments)

    # 1. Configuration, counts, clip: mistakes show before anything heavy is loaded
    config = load_efficiency_config(args)

    from audiolm.config_file import plain_config
    from audiolm.evaluation.efficiency import Repetition, measure_efficiency
    from audiolm.evaluation.efficiency_report import (
        build_report,
        choose_report_path,
        format_report,
        save_report,
    )
    from audiolm.evaluation.machine import describe_machine, find_commit

    repetition = Repetition(args.num_it, args.num_warmup, args.new_tokens, args.batch_size)
    path = choose_report_path(args.out)
    clip = load_clip(args)

    # 2. Model
    started = time.perf_counter()
    workload = load_workload(args.task, config, clip, repetition)
    loading_seconds = time.perf_counter() - started

    # 3. Measurement
    efficiency = measure_efficiency(workload, repetition, show_progress)

    # 4. Report
    context = {
        "settings": describe_settings(args, workload.prompts[0]),
        "audio": {"source": clip.source, "seconds": clip.seconds, "was_cut": clip.was_cut},
        "machine": describe_machine(workload.device),
        "commit": find_commit(),
        "config": plain_config(config),
        "loading_seconds": loading_seconds,
    }
    report = build_report(efficiency, context)
    path = save_report(report, path)  # first: a broken pipe must not cost the measurement
    print(f"{format_report(report)}\n\nreport: {path}")
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cfg-path",
        type=Path,
        default=DEFAULT_CONFIG,
        help="YAML configuration file (configs/salmonn_eval_config.yaml)",
    )
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--num_it", type=int, default=100, help="measured answers (100)")
    parser.add_argument("--num_warmup", type=int, default=10, help="answers before them (10)")
    parser.add_argument("--new_tokens", type=int, default=64, help="length of an answer (64)")
    parser.add_argument("--batch_size", type=int, default=1, help="copies of the clip (1)")
    parser.add_argument("--audio", help="audio file (a synthetic voice)")
    parser.add_argument("--seconds", type=float, help="length of the clip (10, or the whole file)")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic voice (0)")
    parser.add_argument("--task", default="asr", help="whose test prompt is asked (asr)")
    parser.add_argument("--out", help="JSON to write (a dated one in efficiency_results/)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
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


def load_clip(args: argparse.Namespace) -> TimingClip:
    """The audio file, or a synthetic voice."""
    from audiolm.evaluation.timing_clip import (
        DEFAULT_SECONDS,
        build_synthetic_clip,
        load_timing_clip,
    )

    if args.audio:
        return load_timing_clip(args.audio, args.seconds)
    seconds = DEFAULT_SECONDS if args.seconds is None else args.seconds
    return build_synthetic_clip(seconds, args.seed)


def load_workload(task: str, config: Config, clip: TimingClip, repetition: Repetition) -> Workload:
    """Prompt, log-mel and model, put together."""
    import torch

    from audiolm.audio.features import LogMel
    from audiolm.evaluation.efficiency import Workload, choose_timed_device
    from audiolm.models.device import half_dtype
    from audiolm.models.salmonn import SALMONN
    from audiolm.prompts import PromptBook, apply_template

    device = choose_timed_device(config.run.device)
    sentence = PromptBook.load(config.model.test_prompt_path).first(task, "")
    prompt = apply_template(config.model.prompt_template, sentence)
    whisper_path = config.datasets.whisper_path or config.model.whisper_path
    log_mel = LogMel.from_pretrained(whisper_path, token=config.model.token)
    torch.manual_seed(config.run.seed)  # of what no checkpoint fills
    options = dataclasses.replace(config.model, prompt_path="")  # training prompts are not read
    model = SALMONN.from_config(options, device=device, dtype=half_dtype(device))
    return Workload(
        model,
        log_mel,
        clip.samples,
        prompt,
        num_new_tokens=repetition.num_new_tokens,
        batch_size=repetition.batch_size,
        end_text=config.generate.end_sym,
    )


def describe_settings(args: argparse.Namespace, prompt: str) -> dict[str, Any]:
    """What was asked for; overrides are in the configuration (and may hold the hub token)."""
    return {
        "cfg_path": str(args.cfg_path),
        "num_it": args.num_it,
        "num_warmup": args.num_warmup,
        "new_tokens": args.new_tokens,
        "batch_size": args.batch_size,
        "seed": None if args.audio else args.seed,
        "task": args.task,
        "prompt": prompt,
        "decoding": "greedy, fixed number of tokens, stop tokens excluded",
    }


def show_progress(iterations: Sequence[Any]) -> Any:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(iterations, desc="answers", unit="answer", disable=None)


if __name__ == "__main__":
    run_command(main)
