"""The two halves of an optimiser step: adding up gradients, and applying their sum."""

import math
from collections.abc import Sequence
from typing import Any

from audiolm.models.device import move_to
from audiolm.models.salmonn import draw_training_prompts
from audiolm.training.bad_luck import find_culprits, is_out_of_memory
from audiolm.training.engine import share_gradients
from audiolm.training.optimiser import clip_gradients
from audiolm.training.run import Run


def accumulate_gradients(
    run: Run, batches: Sequence[dict[str, Any]], num_tokens: float
) -> list[dict[str, Any]] | None:
    """Add up this process's gradients; the model's outputs, or None when memory ran out."""
    outputs = []
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
        return None
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
