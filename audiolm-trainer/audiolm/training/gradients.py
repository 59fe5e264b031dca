"""The two halves of an optimiser step: adding up gradients, and applying their sum."""

import math
from collections.abc import Sequence
from typing import Any

from audiolm.errors import UserError
from audiolm.models.device import move_to
from audiolm.models.salmonn import draw_training_prompts
from audiolm.training.bad_luck import find_culprits, is_out_of_memory
from audiolm.training.engine import find_largest_anywhere, share_gradients
from audiolm.training.optimiser import clip_gradients
from audiolm.training.run import Run

OUT_OF_MEMORY_IN_SHARDS = (
    "out of memory in a step; with run.fsdp: true no process can take it again alone. Lower "
    "run.batch_size_train (and raise run.accum_grad_iters), or set model.gradient_checkpointing: "
    "all; --resume auto goes on from the last save"
)


def accumulate_gradients(
    run: Run, batches: Sequence[dict[str, Any]], num_tokens: float
) -> list[dict[str, Any]] | None:
    """Add up this process's gradients; the model's outputs, or None when memory ran out.

    Where the LLM is sharded, every process takes part in as many passes as the busiest one has.

    Raises:
        UserError: memory ran out in the middle of layers that other processes wait for.
    """
    outputs, num_passes = [], len(batches)
    if run.sharded is not None:
        num_passes = find_largest_anywhere(run.accelerator, num_passes)
    try:
        for samples in batches:
            with run.precision.autocast():
                prompts = soft_targets = None
                if run.teacher is not None:
                    prompts = draw_training_prompts(run.model, samples)
                    soft_targets = run.teacher.judge(samples, prompts, run.model)
                output = run.model(
                    move_to(samples, run.accelerator.device),
                    verbose=True,
                    prompts=prompts,
                    soft_targets=soft_targets,
                )
            share = output["loss"] * (output["total"] / num_tokens)
            run.precision.scaler.scale(share).backward()
            outputs.append({**output, "loss": float(share.detach())})
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if run.sharded is not None:
            raise UserError(OUT_OF_MEMORY_IN_SHARDS) from error
        return None
    if run.sharded is not None:
        for _ in range(num_passes - len(batches)):
            with run.precision.autocast():
                run.sharded.join_pass(has_backward=True)
    return outputs


def apply_gradients(
    run: Run, batches: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]
) -> tuple[str, list[str]]:
    """Sum gradients over processes and step; else why not, and which clips were to blame."""
    scaler = run.precision.scaler
    share_gradients(run.accelerator, run.trained)
    scaler.unscale_(run.optimiser)
    grad_norm = clip_gradients(run.trained, run.config.run.optims.max_grad_norm)
    reason, ids = "", []
    if not math.isfinite(grad_norm):  # on all processes alike
        reason, ids = find_culprits(run.accelerator, batches, outputs, scaler)
    if not reason:
        scaler.step(run.optimiser)  # leaves float16 gradients alone that overflowed
        run.meter.grad_norm = grad_norm
        for samples, output in zip(batches, outputs, strict=True):
            run.meter.add(samples, output)
    scaler.update()
    return reason, ids
