"""Train a SALMONN-style audio language model.

    python train.py --cfg-path ../configs/train_stage1.yaml
    torchrun --nproc_per_node=2 train.py --cfg-path ../configs/train_stage1.yaml
    python train.py --cfg-path X.yaml --options run.seed=1 run.optims.init_lr 1e-4
    python train.py --cfg-path X.yaml --resume auto # or a run folder: go on after an interruption
    python train.py --cfg-path X.yaml --dryrun      # tiny random weights, everything else as given

Each run writes its own folder under `run.output_dir`: config.yaml, log.jsonl, a checkpoint per
epoch, checkpoint_best.pth (lowest validation loss) and summary.json when it is done.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.errors import run_command

if TYPE_CHECKING:  # torch is imported where it is used, so that --help answers at once
    import torch
    from accelerate import Accelerator

    from audiolm.config import Config
    from audiolm.data.sampler import BatchPlan
    from audiolm.models.salmonn import SALMONN
    from audiolm.training.data import ClipBatches
    from audiolm.training.tracking import RunLog

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
    elif args.dryrun:
        from audiolm.training.dryrun import dry_run

        resolve_input_paths(config, config_dir, PROMPTS)
        print(dry_run(config, train))
    elif config.run.evaluate:
        from audiolm.evaluation.pipeline import evaluate_test_set

        evaluate_test_set(config)
    else:
        resolve_input_paths(config, config_dir, REQUIRED_PATHS)
        train(config, args.resume)
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, help="YAML configuration file")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: a.b=c, or a.b c")
    parser.add_argument("--resume", default="", help="run folder to go on with, or auto")
    parser.add_argument("--dryrun", action="store_true", help="tiny random weights, a few steps")
    parser.add_argument("--print-config", action="store_true", help="show every option and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


@dataclass
class Run:
    """Everything a training run holds. `wrapped` is `model` under distributed training."""

    config: Config
    accelerator: Accelerator
    train_data: ClipBatches
    valid_data: ClipBatches
    model: SALMONN
    wrapped: torch.nn.Module
    optimiser: torch.optim.Optimizer
    plan: BatchPlan
    steps_per_epoch: int  # optimiser steps
    folder: Path
    log: RunLog | None  # of the main process
    first_epoch: int
    validations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.run.optims.max_epoch


def train(config: Config, resume: str = "") -> Path:
    """Run the whole training that the configuration describes; returns the run's folder."""
    run = set_up(config, resume)
    # A pass over the data may go on in the next epoch.
    batches = run.train_data.endless(run.first_epoch * run.steps_per_epoch)
    for epoch in range(run.first_epoch, config.run.optims.max_epoch):
        train_epoch(run, batches, epoch)
        validate_and_save(run, epoch)
    if run.log is not None:
        run.log.finish(run.validations, run.train_data.tally, run.valid_data.tally)
    run.accelerator.end_training()
    return run.folder


def set_up(config: Config, resume: str = "") -> Run:
    """Steps 2 to 6: everything before the loop."""
    from accelerate.utils import broadcast_object_list, set_seed

    from audiolm.data.sampler import plan_batches
    from audiolm.models.device import half_dtype
    from audiolm.models.salmonn import SALMONN
    from audiolm.training.data import ClipBatches, check_data
    from audiolm.training.engine import build_accelerator
    from audiolm.training.optimiser import build_optimiser
    from audiolm.training.resume import find_resume_point
    from audiolm.training.tracking import open_run

    # 2. Engine and seed
    options = config.run
    accelerator = build_accelerator(options)
    set_seed(options.seed)  # the same new weights on every process

    # 3. Data
    accumulation = options.accum_grad_iters
    plan = plan_batches(options.batch_size_train, accumulation, accelerator.num_processes)
    train_data = ClipBatches(config, config.datasets.train_ann_path, accelerator, plan)
    valid_data = ClipBatches(config, config.datasets.valid_ann_path, accelerator)

    # 4. Model
    resume_point = find_resume_point(resume, options) if resume else None
    if resume_point is not None:
        config.model.ckpt = resume_point.checkpoints_after(config.model.ckpt)
    device = accelerator.device
    model = SALMONN.from_config(config.model, device=device, dtype=half_dtype(device))
    check_data(model, train_data)
    check_data(model, valid_data)

    # 5. Optimiser and length of the run
    optimiser = build_optimiser(model, options.optims)
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    steps_per_epoch = -(-options.iters_per_epoch // options.accum_grad_iters)
    if options.epoch_based:
        steps_per_epoch = train_data.steps_per_pass
    validations = []
    if resume_point is not None:
        state = resume_point.load_state()
        optimiser.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None and state.get("scaler"):
            accelerator.scaler.load_state_dict(state["scaler"])
        validations = resume_point.read_validations()

    # 6. Run folder, last: a mistake above leaves nothing behind
    old_folder = resume_point.folder if resume_point is not None else None
    opened = [open_run(config, old_folder) if accelerator.is_main_process else (None, None)]
    folder, log = opened[0]
    folder = broadcast_object_list([folder])[0]
    assert folder is not None
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    accelerator.print(f"{folder}: {num_trained:,} weights to train", file=sys.stderr)
    return Run(
        config, accelerator, train_data, valid_data, model, wrapped, optimiser,
        plan, steps_per_epoch, folder, log,
        resume_point.epoch if resume_point is not None else 0, validations,
    )  # fmt: skip


def train_epoch(run: Run, batches: Iterator[dict[str, Any]], epoch: int) -> None:
    """7. The loop: gather micro-batches, one optimiser step, log."""
    from accelerate.utils import set_seed
    from tqdm import tqdm

    from audiolm.training.progress import Meter

    options = run.config.run
    set_seed(options.seed + epoch, device_specific=True)  # dropout differs between processes
    run.wrapped.train()
    meter = Meter()
    bar = tqdm(
        range(run.steps_per_epoch), desc=f"epoch {epoch}", unit="step", disable=run.log is None
    )
    for step_in_epoch in bar:
        step = epoch * run.steps_per_epoch + step_in_epoch
        micro_batches = list(itertools.islice(batches, run.plan.num_micro_batches))
        learning_rate = train_step(run, micro_batches, step, meter)
        is_last = step_in_epoch == run.steps_per_epoch - 1
        if run.log is not None and ((step + 1) % options.log_freq == 0 or is_last):
            values = {"epoch": epoch, "learning_rate": learning_rate, **meter.summary()}
            run.log.write("train", step, values)
            bar.set_postfix(loss=f"{values['loss']:.3f}", lr=f"{learning_rate:.1e}")
            meter = Meter()


def train_step(run: Run, micro_batches: list[dict[str, Any]], step: int, meter: Any) -> float:
    """One optimiser step: gradients of the mean loss over all answer tokens of all processes."""
    from audiolm.models.device import move_to
    from audiolm.training.engine import count_everywhere, synchronise_only_last
    from audiolm.training.optimiser import set_learning_rate
    from audiolm.training.schedule import compute_learning_rate

    accelerator, model = run.accelerator, run.model
    optims = run.config.run.optims
    learning_rate = compute_learning_rate(step, run.total_steps, optims)
    set_learning_rate(run.optimiser, learning_rate)
    run.optimiser.zero_grad(set_to_none=True)
    if count_everywhere(accelerator, sum(not batch["text"] for batch in micro_batches)):
        return learning_rate  # a whole batch was unreadable somewhere: no process steps

    texts = [text for batch in micro_batches for text in batch["text"]]
    num_tokens = count_everywhere(accelerator, sum(len(model.tokenize_answer(t)) for t in texts))
    for position, samples in enumerate(micro_batches):
        is_last = position == len(micro_batches) - 1
        with synchronise_only_last(accelerator, run.wrapped, is_last):
            output = run.wrapped(move_to(samples, accelerator.device), verbose=True)
            loss_sum = output["loss"] * output["total"]
            # Processes' gradients are averaged, so the mean needs their number back.
            accelerator.backward(loss_sum * accelerator.num_processes / num_tokens)
        meter.add(samples, float(loss_sum.detach()), output["correct"], output["total"])
    limit = optims.max_grad_norm or float("inf")
    parameters = [p for p in model.parameters() if p.requires_grad]
    grad_norm = accelerator.clip_grad_norm_(parameters, limit)  # unscales first
    meter.grad_norm = float(grad_norm) if grad_norm is not None else 0.0
    run.optimiser.step()
    return learning_rate


def validate_and_save(run: Run, epoch: int) -> None:
    """8. Validation, each clip once. 9. The epoch's checkpoint, and the best one."""
    import shutil

    from audiolm.config_file import plain_config
    from audiolm.models.checkpoint import save_checkpoint
    from audiolm.training.validation import validate

    result = validate(run.model, run.valid_data.one_pass(0), run.accelerator)
    is_best = all(result.loss < earlier["loss"] for earlier in run.validations)
    run.validations.append({"epoch": epoch, **result.as_dict()})
    if run.log is None:
        return
    run.log.write("valid", (epoch + 1) * run.steps_per_epoch, run.validations[-1])
    scaler = run.accelerator.scaler
    path = run.folder / f"checkpoint_{epoch}.pth"
    save_checkpoint(
        path,
        run.model,
        optimizer=run.optimiser.state_dict(),
        config=plain_config(run.config),
        scaler=scaler.state_dict() if scaler is not None else None,
        epoch=epoch,
    )
    if is_best:
        best = run.folder / "checkpoint_best.pth"
        shutil.copyfile(path, best.with_suffix(".tmp"))
        best.with_suffix(".tmp").replace(best)
    print(f"epoch {epoch}: validation {result.describe()}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
