"""Decode a test set with a trained model; write the answers and, in valid modes, their scores.

    python evaluate_salmonn.py --mode submission_asr      # CSV only
    python evaluate_salmonn.py --mode submission_aac
    python evaluate_salmonn.py --mode valid_asr           # CSV and WER
    python evaluate_salmonn.py --mode valid_aac           # CSV and SPIDEr (CIDEr-D without Java)
    python evaluate_salmonn.py --mode valid_aac --caption-metrics spider   # or exit status 2
    python evaluate_salmonn.py --tasks QA gender_recognition   # those entries, each by its task
    python evaluate_salmonn.py --mode valid_asr --cfg-path X.yaml --device cuda:1 \\
        --options model.ckpt=checkpoint_best.pth run.batch_size_eval 16
    torchrun --nproc_per_node=4 evaluate_salmonn.py --mode valid_asr
    python evaluate_salmonn.py --mode valid_asr --resume auto   # go on with an interrupted one
    python evaluate_salmonn.py --rescore valid_results/DATE_valid_asr   # no model needed
    python evaluate_salmonn.py compare valid_results/A valid_results/B [...] [--out JSON]

Results go to submission_results/ or valid_results/ in the current directory: a dated CSV and a
folder of the same name with predictions.jsonl (each answer as it is made), result.json, result.md
and report.html. What each number is: docs/evaluation.md.
"""

import argparse
import json
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
    from audiolm.evaluation.outcome import EvaluationResult

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "salmonn_eval_config.yaml"
TASKS = ("asr", "aac")
BY_TASK = "valid_tasks"  # the mode of --tasks alone


def main(arguments: Sequence[str]) -> int:
    """Evaluate, score again or compare, as the command line says; scores go to stdout."""
    if arguments and arguments[0] == "compare":
        return compare(arguments[1:])
    args = build_parser().parse_args(arguments)
    if args.rescore:
        return rescore_saved(args)
    if args.annotation:
        raise UserError("--annotation goes with --rescore; otherwise set datasets.test_ann_path")
    mode = choose_mode(args)
    check_caption_metrics(args.caption_metrics, mode)
    config = load_evaluation_config(args, mode)

    from audiolm.evaluation.pipeline import Evaluation, evaluate
    from audiolm.evaluation.report import ReportOptions

    report = ReportOptions(not args.no_report, args.embed_audio)
    result = evaluate(config, Evaluation(mode, args.tasks, ".", args.resume, report))
    if result is None:
        return 0  # another process tells
    print_result(result)
    print(f"predictions: {result.csv_path}")
    if mode.startswith("submission_"):
        from audiolm.evaluation.inputs import find_annotation

        annotation = None if args.tasks else find_annotation(config, mode)[1]
        warn_of_form(result.csv_path, annotation)
    expect_scores(result, args.caption_metrics)
    return 0


def rescore_saved(args: argparse.Namespace) -> int:
    """Score predictions of a file; no model is loaded."""
    from audiolm.evaluation.outcome import rescore
    from audiolm.evaluation.report import ReportOptions

    check_caption_metrics(args.caption_metrics, "")
    report = ReportOptions(not args.no_report, args.embed_audio)
    result = rescore(args.rescore, annotation=args.annotation, report=report)
    print_result(result)
    expect_scores(result, args.caption_metrics)
    return 0


def check_caption_metrics(metrics: Sequence[str], mode: str) -> None:
    """Refuse, before anything is decoded, metrics that cannot be computed here.

    Raises:
        UserError: as said; Java or a download is missing, or the mode scores no captions.
    """
    if not metrics:
        return
    from audiolm.evaluation.aac import check_metric_names, check_metrics_available

    check_metric_names(metrics)
    if mode == "valid_asr" or mode.startswith("submission_"):
        raise UserError(f"--caption-metrics: {mode} scores no captions; use --mode valid_aac")
    check_metrics_available(metrics)


def expect_scores(result: "EvaluationResult", metrics: Sequence[str]) -> None:
    """Refuse to end as if all were well when a metric that was asked for is not there."""
    found = {name.rpartition(".")[2] for name in result.scores}
    missing = [metric for metric in metrics if metric not in found]
    if missing:
        raise UserError(
            f"--caption-metrics: no {', '.join(missing)} (the lines above say why); the other "
            f"scores and the predictions are in {result.folder}"
        )


def compare(arguments: Sequence[str]) -> int:
    """Compare saved predictions, each with the first."""
    parser = argparse.ArgumentParser(
        prog="evaluate_salmonn.py compare",
        description="Paired differences of saved predictions; the first is what others are "
        "compared with.",
    )
    parser.add_argument("first", help="an evaluation's folder, or its predictions.jsonl")
    parser.add_argument("others", nargs="+", help="the same, of other systems on the same clips")
    parser.add_argument("--seed", type=int, default=0, help="of the paired bootstrap (0)")
    parser.add_argument("--out", type=Path, help="also write the comparison to this JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)

    from audiolm.evaluation.compare import (
        compare_systems,
        describe_as_values,
        describe_comparison,
    )

    found = {
        other: compare_systems(args.first, other, seed=args.seed)
        for other in dict.fromkeys(args.others)
    }
    for other, comparisons in found.items():
        print("\n".join(describe_comparison(comparisons, args.first, other)))
    if args.out:
        content = {"first": args.first, "seed": args.seed, "others": {
            other: describe_as_values(comparisons) for other, comparisons in found.items()
        }}  # fmt: skip
        args.out.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return 0


def print_result(result: "EvaluationResult") -> None:
    """Scores, and where the rest is."""
    for line in result.lines:
        print(line)
    print(f"results: {result.folder}")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", help=" | ".join(MODE_FOLDERS))
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        help="only entries of these tasks; without --mode, each is scored in its own way",
    )
    parser.add_argument(
        "--cfg-path",
        type=Path,
        default=DEFAULT_CONFIG,
        help="YAML configuration file (configs/salmonn_eval_config.yaml)",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; wins over run.device")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--resume", default="", help="auto, or the folder of an interrupted run")
    parser.add_argument("--rescore", help="score these saved predictions; no model is loaded")
    parser.add_argument("--annotation", help="with --rescore: take the references from there")
    parser.add_argument(
        "--caption-metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="refuse to start where one of these (spider, meteor, fense, ...) cannot be computed; "
        "without it what can be computed is, and the rest is named",
    )
    parser.add_argument(
        "--embed-audio",
        type=int,
        default=0,
        metavar="N",
        help="put the audio of the N worst clips into the report; the others are linked",
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
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
    if args.mode is None and args.task is None and args.tasks:
        return BY_TASK
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


def warn_of_form(csv_path: Path, annotation_path: str | None) -> None:
    """Say on stderr whether submission_validator.py would refuse the file."""
    problems, _ = find_problems(csv_path, annotation_path)
    errors = [problem for problem in problems if not problem.is_warning]
    if errors:
        print(
            f"warning: submission_validator.py finds {len(errors)} errors in {csv_path}; "
            f"first: {errors[0]}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_command(main)
