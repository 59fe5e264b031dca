"""Decode a test set with a trained model, write the CSV, and score it.

    python evaluate_salmonn.py --mode submission_asr      # CSV for speech recognition
    python evaluate_salmonn.py --mode submission_aac      # CSV for audio captioning
    python evaluate_salmonn.py --mode valid_asr           # CSV and WER
    python evaluate_salmonn.py --mode valid_aac           # CSV and SPIDEr (CIDEr-D without Java)
    python evaluate_salmonn.py --mode valid_asr --cfg-path X.yaml --device cuda:1 \\
        --options model.ckpt=checkpoint_best.pth run.batch_size_eval 16

Results go to submission_results/ or valid_results/ in the current directory: the CSV, each answer
as JSONL while it is made, and a JSON of scores, counts and options.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent / "audiolm-trainer"))

from audiolm.errors import UserError, run_command
from audiolm.evaluation.submission import MODE_FOLDERS
from submission_validator import find_problems

if TYPE_CHECKING:  # what it needs is imported where it is used, so that --help answers at once
    from audiolm.config import Config

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "salmonn_eval_config.yaml"
TASKS = ("asr", "aac")


def main(arguments: Sequence[str]) -> int:
    """Evaluate as the command line says; scores go to stdout."""
    args = build_parser().parse_args(arguments)
    mode = choose_mode(args)
    config = load_evaluation_config(args, mode)

    from audiolm.evaluation.pipeline import evaluate

    result = evaluate(config, mode, config_path=args.cfg_path)
    for line in result.lines:
        print(line)
    print(f"predictions: {result.csv_path}")
    if mode.startswith("submission_"):
        warn_of_form(result.csv_path)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", help=" | ".join(MODE_FOLDERS))
    parser.add_argument(
        "--cfg-path",
        type=Path,
        default=DEFAULT_CONFIG,
        help="YAML configuration file (configs/salmonn_eval_config.yaml)",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--task", help="deprecated: asr or aac; use --mode")
    parser.add_argument("--skip_scoring", action="store_true", help="deprecated: use --mode")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def choose_mode(args: argparse.Namespace) -> str:
    """The mode that --mode or the deprecated flags ask for; those get one warning.

    Raises:
        UserError: no mode, an unknown one, or --task and --mode disagree.
    """
    choices = ", ".join(MODE_FOLDERS)
    if args.mode is not None and args.mode not in MODE_FOLDERS:
        raise UserError(f"--mode {args.mode} is unknown: choose one of {choices}")
    if args.task is not None and args.task not in TASKS:
        raise UserError(f"--task {args.task} is unknown: choose --mode out of {choices}")
    if args.mode is None and args.task is None:
        raise UserError(f"no --mode: choose one of {choices}")
    mode: str = args.mode or f"valid_{args.task}"
    task = mode.rpartition("_")[2]
    if args.task not in (None, task):
        raise UserError(f"--task {args.task} and --mode {mode} disagree: leave --task out")
    if args.skip_scoring:
        mode = f"submission_{task}"
    if args.task is not None or args.skip_scoring:
        message = f"warning: --task and --skip_scoring are deprecated; use --mode {mode}"
        print(message, file=sys.stderr)
    return mode


def load_evaluation_config(args: argparse.Namespace, mode: str) -> "Config":
    """The configuration with everything the mode reads in place."""
    from audiolm.config_file import load_config, resolve_input_paths
    from audiolm.evaluation.inputs import list_required_paths

    overrides = [*args.options, *([f"run.device={args.device}"] if args.device else [])]
    config = load_config(args.cfg_path, overrides)
    config_dir = args.cfg_path.resolve().parent
    resolve_input_paths(config, config_dir, list_required_paths(config, mode))
    return config


def warn_of_form(csv_path: Path) -> None:
    """Say on stderr whether submission_validator.py would refuse the file."""
    problems, _ = find_problems(csv_path)
    errors = [problem for problem in problems if not problem.is_warning]
    if errors:
        print(
            f"warning: submission_validator.py finds {len(errors)} errors in {csv_path}; "
            f"first: {errors[0]}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_command(main)
