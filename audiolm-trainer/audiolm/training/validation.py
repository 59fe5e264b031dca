"""Loss per task, and scored answers, on the validation set; each clip once over all processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from audiolm.models.checkpoint import load_checkpoints
from audiolm.models.device import move_to
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import apply_template
from audiolm.training.data import ClipBatches
from audiolm.training.engine import gather_everywhere, sum_everywhere
from audiolm.training.interrupts import StopRequest
from audiolm.training.precision import Precision
from audiolm.training.progress import count_answers, summarise_answers
from audiolm.training.run import Run
from audiolm.training.samples import write_samples
from audiolm.training.selection import AVERAGE_NAME, average_best
from audiolm.training.sharding import Rounds, ShardedLayers


class Stopped(Exception):
    """A process was asked to stop in the middle of a validation."""


def validate(run: Run, score_answers: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A validation's record: loss and accuracy of all clips, scores of `run.scored_data`.

    Raises:
        Stopped: on every process, when one was asked to stop.
    """
    model, accelerator, sharded = run.model, run.accelerator, run.sharded
    record = measure_loss(model, run.valid_data, accelerator, run.precision, run.stop, sharded)
    if run.scored_data is not None:
        data, generation = run.scored_data, run.config.generate
        answers = generate_answers(model, data, generation, accelerator, run.stop, sharded)
        record["scores"] = score_tasks(answers, score_answers)
        run.write(lambda: write_samples(run.folder, answers, data, run.position.step))
    return record


def validate_average(run: Run, score_answers: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Write the mean of the best checkpoints, put it into the model, and validate it."""
    run.write(lambda: average_best(run.folder, run.config.run.keep_best))
    ckpt = run.config.model.ckpt
    earlier = ckpt if isinstance(ckpt, list) else [ckpt] if ckpt else []
    load_checkpoints(run.model, [*map(Path, earlier), run.folder / AVERAGE_NAME])
    return validate(run, score_answers)


@torch.no_grad()
def measure_loss(
    model: SALMONN,
    data: ClipBatches,
    accelerator: Accelerator,
    precision: Precision,
    stop: StopRequest,
    sharded: ShardedLayers | None = None,
) -> dict[str, Any]:
    """Loss in nats per answer token, token accuracy and counts, with each task's first prompt.

    Processes may have unequal numbers of batches. The model is left in the mode it came in.

    Raises:
        Stopped: on every process, when one was asked to stop.
    """
    tasks = sorted(data.tasks)
    was_training = model.training
    model.eval()
    by_task: dict[str, list[float]] = {}
    num_clips = dict.fromkeys(tasks, 0)

    join = partial(sharded.join_pass, has_backward=False) if sharded is not None else None
    rounds = Rounds(data.one_pass(0), accelerator, stop, join)
    for samples in rounds:
        with precision.autocast():
            output = model(
                move_to(samples, accelerator.device),
                verbose=True,
                prompts=first_prompts(model, samples),
            )
        count_answers(by_task, samples["task"], output)
        for task in samples["task"]:
            num_clips[task] += 1
    model.train(was_training)
    numbers = [x for task in tasks for x in (*by_task.get(task, (0.0, 0.0, 0.0)), num_clips[task])]
    *numbers, num_stopped = sum_everywhere(accelerator, [*numbers, rounds.is_stopped])
    if num_stopped:
        raise Stopped
    sums = {task: numbers[4 * i : 4 * i + 4] for i, task in enumerate(tasks)}
    result = summarise_answers({task: values[:3] for task, values in sums.items()})
    for task, values in sums.items():
        if task in result["tasks"]:
            result["tasks"][task]["num_clips"] = int(values[3])
    return {
        **result,
        "num_clips": int(sum(values[3] for values in sums.values())),
        "num_tokens": int(sum(values[2] for values in sums.values())),
    }


@torch.no_grad()
def generate_answers(
    model: SALMONN,
    data: ClipBatches,
    generate_config: Any,
    accelerator: Accelerator,
    stop: StopRequest,
    sharded: ShardedLayers | None = None,
) -> list[dict[str, Any]]:
    """Answers of all processes, in the annotation's order, on every process.

    Each is `index`, `id`, `task`, `prompt`, `references` and `hypothesis`.

    Raises:
        Stopped: as `measure_loss`.
    """
    was_training = model.training
    model.eval()
    answers = []
    join = partial(sharded.join_answer, model, generate_config) if sharded is not None else None
    rounds = Rounds(data.one_pass(0), accelerator, stop, join)
    for samples in rounds:
        prompts = first_prompts(model, samples)
        texts = model.generate(move_to(samples, accelerator.device), generate_config, prompts)
        for row, text in enumerate(texts):
            answers.append(
                {
                    **{key: samples[key][row] for key in ("index", "id", "task", "references")},
                    "prompt": prompts[row],
                    "hypothesis": text,
                }
            )
    model.train(was_training)
    if sum_everywhere(accelerator, [rounds.is_stopped])[0]:
        raise Stopped
    return sorted(gather_everywhere(answers), key=lambda answer: answer["index"])


def score_tasks(
    answers: Sequence[Mapping[str, Any]], score_answers: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each task's scores with their intervals, by the final evaluation's `score_answers`."""
    scores = {}
    for task in sorted({answer["task"] for answer in answers}):
        chosen = [answer for answer in answers if answer["task"] == task]
        hypotheses = [answer["hypothesis"] for answer in chosen]
        references = [answer["references"] for answer in chosen]
        scored = score_answers(task, hypotheses, references)
        scores[task] = {name: asdict(score) for name, score in scored.items()}
    return scores


def describe(validation: Mapping[str, Any]) -> str:
    """One line for the screen, with each task's first score."""
    line = (
        f"loss {validation['loss']:.4f}, token accuracy {validation['token_accuracy']:.3f}, "
        f"{validation['num_clips']} clips"
    )
    for task, scores in validation.get("scores", {}).items():
        name, score = next(iter(scores.items()))
        line += f"; {task} {name} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
    return line


def first_prompts(model: SALMONN, samples: dict[str, Any]) -> list[str]:
    """Each sample's prompt without a draw, so that epochs compare."""
    assert model.prompts is not None
    template = model.text_options.prompt_template
    pairs = zip(samples["task"], samples["Q"], strict=True)
    return [apply_template(template, model.prompts.first(task, q)) for task, q in pairs]
