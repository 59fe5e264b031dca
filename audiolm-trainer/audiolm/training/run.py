"""A training run: everything it holds, and what its steps in train.py ask of it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from audiolm.config import Config
from audiolm.data.mixture import describe_mixture
from audiolm.data.sampler import BatchPlan
from audiolm.errors import UserError
from audiolm.models.salmonn import SALMONN
from audiolm.training.bad_luck import SkippedSteps
from audiolm.training.data import ClipBatches
from audiolm.training.engine import gather_everywhere, sum_everywhere, tell_everyone
from audiolm.training.interrupts import StopRequest
from audiolm.training.precision import Precision
from audiolm.training.progress import Meter, describe_progress, summarise
from audiolm.training.report import write_report
from audiolm.training.saving import Position, describe_failure, read_random_states, write_state
from audiolm.training.selection import count_without_progress
from audiolm.training.sharding import ShardedLayers
from audiolm.training.teacher import Teacher
from audiolm.training.tracking import RunLog

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The parts of a run. `batches` are this process's micro-batches, from `position` on."""

    config: Config
    accelerator: Accelerator
    precision: Precision
    plan: BatchPlan
    train_data: ClipBatches
    valid_data: ClipBatches
    scored_data: ClipBatches | None  # the validation clips that are answered and scored
    model: SALMONN
    trained: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    folder: Path
    log: RunLog | None  # of the main process
    stop: StopRequest
    position: Position
    skipped_steps: SkippedSteps
    sharded: ShardedLayers | None = None  # of the LLM, with `run.fsdp`
    teacher: Teacher | None = None  # of a student, see run.distil
    validations: list[dict[str, Any]] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    stop_reason: str = ""  # on all processes alike, once they have agreed
    is_save_due: bool = False
    batches: Iterator[dict[str, Any]] = field(init=False)
    total_steps: int = field(init=False)
    last_save: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.batches = self.train_data.endless(self.position.step)
        self.total_steps = self.count_steps(self.config.run.optims.max_epoch)

    def describe(self) -> str:
        """What is trained on, what is trained, and from where on: a few lines."""
        mixture = self.train_data.mixture
        lines = describe_mixture(mixture) if mixture is not None else []
        num_weights = sum(parameter.numel() for parameter in self.trained)
        lines.append(
            f"{self.folder}: {num_weights:,} weights to train, step {self.position.step} of "
            f"{self.total_steps}, {self.plan.clips_per_step} clips a step"
        )
        return "\n".join(lines)

    def describe_end(self) -> str:
        """Why there are no more steps, and what to do with what there is: a line."""
        options, step, folder = self.config.run, self.position.step, self.folder
        if not self.is_finished:
            return (
                f"stopped after step {step} ({self.stop_reason}); go on with the same command and "
                f"--resume {folder}"
            )
        early = ""
        if self.position.epoch < options.optims.max_epoch:
            early = f" (run.early_stop_patience: {options.best_metric} no longer gets better)"
        return f"finished after step {step}{early}: {folder}/checkpoint_best.pth, report.html"

    def count_steps(self, num_epochs: int) -> int:
        """Optimiser steps in the first epochs: passes over the data, or `iters_per_epoch`
        micro-batches each."""
        options = self.config.run
        if options.epoch_based:
            return self.train_data.count_steps(num_epochs)
        return num_epochs * -(-options.iters_per_epoch // options.accum_grad_iters)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of the epoch being trained."""
        return self.count_steps(self.position.epoch + 1) - self.count_steps(self.position.epoch)

    @property
    def is_epoch_done(self) -> bool:
        return self.position.step_in_epoch >= self.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        """All epochs are trained and validated, or validations no longer get better."""
        options = self.config.run
        if self.position.epoch >= options.optims.max_epoch:
            return True
        patience = options.early_stop_patience
        if not patience or not self.validations:
            return False
        return count_without_progress(self.validations, options.best_metric) >= patience

    def agree(self, count: float) -> float:
        """The sum of a count over processes; they also settle whether to stop or save after it."""
        options, position = self.config.run, self.position
        minutes = (time.monotonic() - self.last_save) / 60
        is_time = bool(options.save_every_minutes) and minutes >= options.save_every_minutes
        flags = [bool(self.stop.reason), is_time and self.accelerator.is_main_process]
        total, num_stops, num_due = sum_everywhere(self.accelerator, [count, *flags])
        if num_stops:
            self.stop_reason = self.stop.reason or "another process was stopped"
        every = options.save_every_steps
        self.is_save_due = bool(num_due) or bool(every and (position.step + 1) % every == 0)
        return total

    def write_progress(self, step: int, learning_rate: float) -> str:
        """Log the steps since the last line; returns a few words of it for the screen."""
        tasks = sorted(self.train_data.tasks)
        num_processes = self.accelerator.num_processes
        totals = sum_everywhere(self.accelerator, self.meter.totals(tasks))
        values = {
            "epoch": self.position.epoch,
            "learning_rate": learning_rate,
            "grad_norm": self.meter.grad_norm,
            **summarise(totals, tasks, num_processes),
        }
        if self.teacher is None:
            del values["distil_loss"]
        if self.log is not None:
            self.log.write("train", step, values)
        self.meter = Meter()
        return describe_progress(values)

    def count_skipped(self, reason: str, ids: Sequence[str]) -> None:
        """Note whether the step was left out, and why; too many in a row raise a `UserError`."""
        if reason and self.log is not None:
            values = {"epoch": self.position.epoch, "reason": reason, "ids": list(ids)}
            self.log.write("skip", self.position.step, values)
        self.skipped_steps.count(reason, ids)

    def write(self, action: Callable[[], object]) -> None:
        """Do on the main process what writes files; all processes stop when it fails.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        failure = ""
        if self.accelerator.is_main_process:
            try:
                action()
            except OSError as error:
                failure = describe_failure(error, self.folder)
        failure = tell_everyone(failure)
        if failure:
            raise UserError(failure)

    def write_state(self, checkpoint_path: Path) -> None:
        """Complete a save: all that going on needs besides the checkpoint itself."""
        state = {
            "position": asdict(self.position),
            "clips_per_step": self.plan.clips_per_step,
            "num_processes": self.accelerator.num_processes,
            "random_states": gather_everywhere([read_random_states()]),
            "meters": gather_everywhere([asdict(self.meter)]),
            "skipped_in_row": self.skipped_steps.num_in_row,
            "validations": self.validations,
        }
        self.write(lambda: write_state(checkpoint_path, state))

    def note_save(self, checkpoint_path: Path) -> None:
        """A save is complete: say so in the log and start the clock anew."""
        self.last_save = time.monotonic()
        if self.log is not None:
            self.log.write("save", self.position.step, {"path": checkpoint_path.name})
        self.report()

    def close(self) -> None:
        """Close the logs: with a summary when the run is finished, else with why it stops."""
        skipped = gather_everywhere(
            [*self.train_data.tally.skipped, *self.valid_data.tally.skipped]
        )
        if self.log is not None and self.is_finished:
            train, valid = self.train_data.tally, self.valid_data.tally
            self.log.finish(self.validations, train, valid, skipped)
            if skipped:
                num, first = len(dict.fromkeys(skipped)), skipped[0]
                logger.warning(
                    "%d clips were left out, such as %s (%s); summary.json lists them",
                    num,
                    first.id,
                    first.reason,
                )
        elif self.log is not None:
            self.log.stop(self.position.step, self.stop_reason)
        self.report()
        self.accelerator.end_training()

    def report(self) -> None:
        """Draw `report.html` anew; a run never ends because that fails."""
        if self.log is not None:
            try:
                write_report(self.folder)
            except OSError as error:
                logger.warning("%s: no new report.html: %s", self.folder, error)
