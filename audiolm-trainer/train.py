"""Train a SALMONN-style audio language model.

    python train.py --cfg-path ../configs/train_stage1.yaml
    torchrun --nproc_per_node=2 train.py --cfg-path ../configs/train_stage1.yaml
    python train.py --cfg-path X.yaml --options run.seed=1 run.optims.init_lr 1e-4
    python train.py --cfg-path X.yaml --resume auto # or a run folder: go on after an interruption
    python train.py --cfg-path X.yaml --dryrun      # tiny random weights, everything else as given
    python train.py --cfg-path X.yaml --plan        # memory by part and card, before any download
    python train.py --cfg-path X.yaml --plan --verify # the same, checked by two real steps
    python train.py --cfg-path X.yaml --doctor      # is everything there, and does it fit together

Each run writes its own folder under `run.output_dir`: config.yaml, log.jsonl, checkpoints with what
resuming needs, checkpoint_best.pth, report.html, and summary.json when it is done.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.errors import run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    from audiolm.config import Config
    from audiolm.training.run import Run

SIZES_DIR = Path(__file__).resolve().parents[1] / "configs" / "models"  # published, for planning
PROMPTS = ("model.prompt_path",)
REQUIRED_PATHS = (
    *PROMPTS,
    "model.llama_path",
    "model.whisper_path",
    "datasets.train_ann_path",
    "datasets.valid_ann_path",
)


def main(arguments: Sequence[str]) -> int:
    """1. Configuration, and what to do with it."""
    from audiolm.config_file import dump_config, load_config, resolve_input_paths

    args = parse_arguments(arguments)
    config = load_config(args.cfg_path, args.options)
    config_dir = Path(args.cfg_path).resolve().parent
    if args.print_config:
        print(dump_config(config), end="")
    elif args.plan or args.measure_plan:
        print(plan(config, args, arguments), end="")
    elif args.doctor:
        return examine(config)
    elif args.dryrun:
        from audiolm.training.dryrun import dry_run

        resolve_input_paths(config, config_dir, PROMPTS)
        for line in dry_run(config, train):
            print(line)
    elif args.find_batch_size:
        from audiolm.training.batch_size import find_batch_size

        resolve_input_paths(config, config_dir, REQUIRED_PATHS)
        for line in find_batch_size(config):
            print(line)
    elif config.run.evaluate:
        from audiolm.evaluation.pipeline import evaluate_test_set

        evaluate_test_set(config)
    else:
        resolve_input_paths(config, config_dir, REQUIRED_PATHS)
        train(config, args.resume, resume_anyway=args.resume_anyway)
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, help="YAML configuration file")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument(
        "--resume", default="", help="run folder or checkpoint to go on with, or auto"
    )
    parser.add_argument(
        "--resume-anyway", action="store_true", help="go on although options have changed"
    )
    parser.add_argument("--dryrun", action="store_true", help="tiny random weights, a few steps")
    parser.add_argument("--plan", action="store_true", help="memory by part and card; no weights")
    parser.add_argument("--verify", action="store_true", help="with --plan: check by real steps")
    parser.add_argument("--measure-plan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--doctor", action="store_true", help="check machine, files and data")
    parser.add_argument("--find-batch-size", action="store_true", help="try what fits in memory")
    parser.add_argument("--print-config", action="store_true", help="show every option and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def plan(config: Config, args: argparse.Namespace, arguments: Sequence[str]) -> str:
    """The memory plan of a configuration; `--verify` measures in a process of its own."""
    from audiolm.training.plan_command import write_measurement, write_plan

    if args.measure_plan:
        from audiolm.evaluation.memory import PeakMeter

        return write_measurement(config, SIZES_DIR, PeakMeter)
    measuring = [sys.executable, __file__, *arguments, "--measure-plan"] if args.verify else None
    return write_plan(config, SIZES_DIR, f"Memory plan of {args.cfg_path}", measuring)


def examine(config: Config) -> int:
    """Print what is ready and what to fix; 0 when nothing stops a run, else 2."""
    from audiolm.evaluation.metric_requirements import check_metrics_available
    from audiolm.training import doctor

    root = SIZES_DIR.parents[1]
    requirements = (root / "audiolm-trainer" / "requirements.txt", root / "requirements.txt")
    surroundings = doctor.Surroundings(SIZES_DIR, requirements, check_metrics_available)
    findings = doctor.examine(config, surroundings)
    print(doctor.format_findings(findings), end="")
    return 2 if doctor.count_problems(findings) else 0


def train(config: Config, resume: str = "", *, resume_anyway: bool = False) -> Path:
    """Run the training that the configuration describes, or what is left of it; its folder."""
    from audiolm.training.setup import set_up_run

    def report(line: str) -> None:
        print(line, file=sys.stderr)

    run = set_up_run(config, resume, resume_anyway=resume_anyway, report=report)  # 2. to 6.
    if run.log is not None:
        report(run.describe())
    with run.stop:
        while not run.is_finished and not run.stop_reason:
            train_epoch(run)
            if run.is_epoch_done:
                finish_epoch(run)
    finish_run(run)
    return run.folder


def train_epoch(run: Run) -> None:
    """7. The loop: gather micro-batches, take an optimiser step, log, save, evaluate."""
    from accelerate.utils import set_seed
    from tqdm import tqdm

    options, position = run.config.run, run.position
    if position.step_in_epoch == 0:
        set_seed(options.seed + position.epoch, device_specific=True)  # dropout differs by process
    with tqdm(
        desc=f"epoch {position.epoch}", unit="step", disable=run.log is None,
        initial=position.step_in_epoch, total=run.steps_per_epoch,
    ) as bar:  # fmt: skip
        run.model.train()
        while not (run.is_epoch_done or run.is_finished or run.stop_reason):
            started, step = time.perf_counter(), position.step
            batches = run.meter.waiting(run.batches)
            micro_batches = list(itertools.islice(batches, run.plan.num_micro_batches))
            learning_rate = train_step(run, micro_batches)
            position.advance()
            bar.update()
            run.meter.seconds += time.perf_counter() - started
            if position.step % options.log_freq == 0 or run.is_epoch_done:
                bar.set_postfix_str(run.write_progress(step, learning_rate))
            is_evaluated = options.eval_every and position.step % options.eval_every == 0
            if not run.is_epoch_done and (is_evaluated or run.is_save_due or run.stop_reason):
                path = save(run)
                if is_evaluated and not run.stop_reason and evaluate(run, path):
                    run.write_state(path)


def train_step(run: Run, micro_batches: list[dict[str, Any]]) -> float:
    """One optimiser step; its learning rate.

    The loss is a mean over the answer tokens of all micro-batches of all processes, which talk
    three times: how many tokens, whether memory sufficed, and the gradients. Where memory does not
    suffice, all processes try again with their micro-batches cut in half.
    """
    from audiolm.training.bad_luck import halve, list_ids, release_memory
    from audiolm.training.engine import gather_everywhere, sum_everywhere
    from audiolm.training.gradients import accumulate_gradients, apply_gradients
    from audiolm.training.optimiser import set_learning_rate
    from audiolm.training.schedule import compute_learning_rate

    optims = run.config.run.optims
    learning_rate = compute_learning_rate(run.position.step, run.total_steps, optims)
    set_learning_rate(run.optimiser, learning_rate)
    batches = [samples for samples in micro_batches if samples["text"]]
    texts = [text for samples in batches for text in samples["text"]]
    num_tokens = run.agree(sum(len(run.model.tokenize_answer(text)) for text in texts))
    if not num_tokens:
        return learning_rate  # every clip of the step was unreadable
    while True:
        run.optimiser.zero_grad(set_to_none=True)
        outputs = accumulate_gradients(run, batches, num_tokens)
        if not sum_everywhere(run.accelerator, [outputs is None])[0]:
            reason, ids = apply_gradients(run, batches, outputs or [])
            break
        release_memory()
        num_before = len(batches)
        batches = [half for samples in batches for half in halve(samples)]
        if not sum_everywhere(run.accelerator, [len(batches) - num_before])[0]:
            reason, ids = "out of memory", gather_everywhere(list_ids(batches))  # single clips
            break
    run.count_skipped(reason, ids)
    return learning_rate


def finish_epoch(run: Run) -> None:
    """8. Save before the validation, which may take long, and note afterwards that it is done."""
    path = save(run)
    if not run.stop_reason and evaluate(run, path):
        run.position.start_next_epoch()
        run.write_state(path)


def evaluate(run: Run, checkpoint_path: Path) -> bool:
    """9. Validation: each clip's loss once, some clips' answers scored; False when stopped."""
    from audiolm.evaluation.scores import score_answers
    from audiolm.training.saving import keep_random_states
    from audiolm.training.selection import keep_best
    from audiolm.training.validation import Stopped, describe, validate

    options, step = run.config.run, run.position.step
    try:
        with keep_random_states():
            record = {"epoch": run.position.epoch, **validate(run, score_answers)}
    except Stopped:
        run.stop_reason = run.stop.reason or "another process was stopped"
        return False
    validations, metric = [*run.validations, {"step": step, **record}], options.best_metric
    run.write(
        lambda: keep_best(run.folder, checkpoint_path, validations, metric, options.keep_best)
    )
    run.validations = validations
    if run.log is not None:
        run.log.write("valid", step, record)
        print(f"epoch {run.position.epoch}: validation {describe(record)}", file=sys.stderr)
    return True


def save(run: Run) -> Path:
    """10. A checkpoint and the state beside it; saves beyond `keep_last` go."""
    from audiolm.config_file import plain_config
    from audiolm.models.checkpoint import save_checkpoint
    from audiolm.training.saving import checkpoint_name, drop_old_saves, state_path

    path = run.folder / checkpoint_name(run.position, run.is_epoch_done)

    def write() -> None:
        state_path(path).unlink(missing_ok=True)  # of an earlier try at the same step
        save_checkpoint(
            path,
            run.model,
            optimizer=run.optimiser.state_dict(),
            config=plain_config(run.config),
            scaler=run.precision.scaler.state_dict(),
            epoch=run.position.epoch,
        )

    run.write(write)
    run.write_state(path)
    run.write(lambda: drop_old_saves(run.folder, run.config.run.keep_last))
    run.note_save(path)
    return path


def finish_run(run: Run) -> None:
    """11. Say how to go on, or that the run is done."""
    from audiolm.evaluation.scores import score_answers
    from audiolm.training.validation import describe, validate_average

    if run.is_finished and run.config.run.average_best:
        record = validate_average(run, score_answers)
        if run.log is not None:
            run.log.write("average", run.position.step, record)
            print(f"mean of the best: validation {describe(record)}", file=sys.stderr)
    if run.log is not None:
        print(run.describe_end(), file=sys.stderr)
    run.close()


if __name__ == "__main__":
    run_command(main)
