"""Steps 2 to 6 of train.py: from a configuration to a run that is ready for its first step."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from audiolm.config import Config
from audiolm.data.sampler import BatchPlan, plan_batches
from audiolm.errors import UserError
from audiolm.models.salmonn import SALMONN
from audiolm.training.bad_luck import SkippedSteps
from audiolm.training.ctc import prepare_ctc
from audiolm.training.data import ClipBatches, check_data
from audiolm.training.engine import build_accelerator, share_weights, tell_everyone
from audiolm.training.features import ensure_features
from audiolm.training.interrupts import StopRequest
from audiolm.training.optimiser import build_optimiser
from audiolm.training.precision import choose_precision
from audiolm.training.progress import Meter
from audiolm.training.resume import ResumePoint, check_same_run, find_resume_point
from audiolm.training.run import Run
from audiolm.training.run_folder import check_output_dir
from audiolm.training.saving import Position, restore_random_states
from audiolm.training.selection import check_metric
from audiolm.training.sharding import check_sharding, shard_llm
from audiolm.training.teacher import open_teacher
from audiolm.training.tracking import open_run

logger = logging.getLogger(__name__)


def set_up_run(
    config: Config,
    resume: str = "",
    *,
    resume_anyway: bool = False,
    report: Callable[[str], None] = logger.info,
) -> Run:
    """Everything before the loop. A mistake in the configuration leaves nothing behind.

    `report` takes lines about what takes long.
    """
    # 2. Engine, where to go on from, and seed
    options = config.run
    check_metric(options.best_metric, options.eval_clips)
    accelerator = build_accelerator(options)
    check_sharding(config, accelerator.num_processes)
    precision = choose_precision(options, accelerator.device)
    stop = StopRequest(options.max_time_minutes)
    point = _agree_on_resume_point(accelerator, config, resume, resume_anyway)
    state = point.save.state if point is not None else {}
    set_seed(options.seed)  # the same new weights on every process

    # 3. Data
    plan = plan_batches(
        options.batch_size_train, options.accum_grad_iters, accelerator.num_processes,
        state.get("clips_per_step"),
    )  # fmt: skip
    train_data, valid_data, scored_data = _open_data(config, accelerator, plan)

    # 4. Model
    data = [part for part in (train_data, valid_data, scored_data) if part is not None]
    model = _build_model(config, accelerator, precision.frozen_dtype, point, data, report)
    sharded = shard_llm(model, accelerator) if options.fsdp else None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    share_weights(accelerator, trained)
    teacher = open_teacher(config, model, train_data.num_mel_bins, accelerator, precision)

    # 5. Optimiser, and the state to go on from
    optimiser = build_optimiser(model, options.optims)
    position, meter = Position(), Meter()
    if point is not None:
        checkpoint = point.load_checkpoint()
        optimiser.load_state_dict(checkpoint["optimizer"])
        precision.scaler.load_state_dict(checkpoint.get("scaler") or {})
        position = point.save.position
        meter = _restore_process(accelerator, state, options.seed)

    # 6. Run folder, last: a mistake above leaves nothing behind
    folder, log = None, None
    if accelerator.is_main_process:
        folder, log = open_run(config, point.folder if point is not None else None)
        if point is not None:
            log.resume(position.step, position.epoch, accelerator.num_processes)
    return Run(
        config, accelerator, precision, plan, train_data, valid_data, scored_data, model, trained,
        optimiser, tell_everyone(folder), log, stop, position,
        SkippedSteps(options.max_skipped_steps, state.get("skipped_in_row", 0)), sharded, teacher,
        validations=list(state.get("validations", [])), meter=meter,
    )  # fmt: skip


def _open_data(
    config: Config, accelerator: Accelerator, plan: BatchPlan
) -> tuple[ClipBatches, ClipBatches, ClipBatches | None]:
    """Training and validation clips, and those of the latter that are answered and scored."""
    datasets, num_scored = config.datasets, config.run.eval_clips
    train_data = ClipBatches(config, datasets.train_ann_path, accelerator, plan)
    valid_data = ClipBatches(config, datasets.valid_ann_path, accelerator)
    scored_data = None
    if num_scored:
        scored_data = ClipBatches(
            config, datasets.valid_ann_path, accelerator, max_clips=num_scored
        )
    return train_data, valid_data, scored_data


def _agree_on_resume_point(
    accelerator: Accelerator, config: Config, resume: str, is_forced: bool
) -> ResumePoint | None:
    """The main process looks; all go on from what it found, or start a run."""
    point, problem = None, ""
    if accelerator.is_main_process:
        try:
            point = find_resume_point(resume, config) if resume else None
            if point is not None:
                check_same_run(point, config, is_forced=is_forced)
            else:
                check_output_dir(config.run.output_dir)
        except UserError as error:
            problem = str(error)
    point, problem = tell_everyone((point, problem))
    if problem:
        raise UserError(problem)
    return point


def _build_model(
    config: Config,
    accelerator: Accelerator,
    dtype: torch.dtype,
    point: ResumePoint | None,
    data: Sequence[ClipBatches],
    report: Callable[[str], None],
) -> SALMONN:
    """The model with its weights of now; without encoders where their outputs are stored."""
    clips = itertools.chain.from_iterable(part.clips for part in data)
    features = ensure_features(config, accelerator, clips, dtype=dtype, report=report)
    options = config.model
    if options.merge_adapter:
        raise UserError("model.merge_adapter: true leaves no adapter to train; set it to false")
    if config.generate.torch_compile:
        raise UserError(
            "generate.torch_compile: true is for weights that stay; set it to false for training"
        )
    if point is not None:
        options = replace(options, ckpt=point.checkpoints_after(options.ckpt))
    device = torch.device("cpu") if config.run.fsdp else accelerator.device  # split first, then
    model = SALMONN.from_config(options, device=device, dtype=dtype, has_encoders=features is None)
    for part in data:
        part.use_features(features)
        check_data(model, part)
    if options.objective == "ctc":
        clips = list(itertools.chain.from_iterable(part.clips for part in data))
        tell = report if accelerator.is_main_process else logger.debug
        prepare_ctc(model, clips, config.datasets, tell)
    return model


def _restore_process(accelerator: Accelerator, state: Mapping[str, Any], seed: int) -> Meter:
    """Take up this process's random states and counts, unless the processes are others now."""
    if state["num_processes"] != accelerator.num_processes:
        set_seed(seed + state["position"]["step"], device_specific=True)
        return Meter()
    restore_random_states(state["random_states"][accelerator.process_index])
    return Meter(**state["meters"][accelerator.process_index])
