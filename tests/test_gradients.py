"""One optimiser step, split in every way: the gradients are those of the whole step at once."""

import json
from pathlib import Path
from typing import Any

import gradient_of_a_step
import processes
import pytest
import torch
from training_runs import DEV, arguments

WORDS = "one two three four five six seven eight nine".split()
EXACT = ("model.qformer.dropout=0", "run.optims.max_grad_norm=0", f"datasets.prefix={DEV}/audio")


def take_step(
    tmp_path: Path,
    num_processes: int,
    batch_size: int,
    accumulation: int,
    *options: str,
    num_clips: int = 8,
) -> dict[str, Any]:
    """What `gradient_of_a_step.py` saves of the step over `num_clips` clips of unequal length and
    text."""
    rows = json.loads((DEV / "annotation_asr.json").read_text())["annotation"]
    clips = [
        {**rows[number % len(rows)], "text": " ".join(WORDS[: 1 + number])}
        for number in range(num_clips)
    ]
    annotation = tmp_path / "clips.json"
    annotation.write_text(json.dumps({"annotation": clips}))
    out = tmp_path / f"{num_processes}x{batch_size}x{accumulation}.pt"
    changes = (
        *EXACT,
        f"datasets.train_ann_path={annotation}",
        f"run.batch_size_train={batch_size}",
        f"run.accum_grad_iters={accumulation}",
        *options,
    )
    what = [str(out), *arguments(tmp_path, *changes)]
    outcome = processes.run(gradient_of_a_step.main, what, tmp_path, num_processes)
    assert not any(outcome.statuses), outcome.stderr[-3000:]
    return torch.load(out, weights_only=True)


def gradients(*arguments: Any, num_clips: int = 8) -> dict[str, torch.Tensor]:
    """Gradients by parameter; the arguments are those of `take_step`."""
    return take_step(*arguments, num_clips=num_clips)["gradients"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return gradients(tmp_path_factory.mktemp("whole"), 1, 8, 1)


@pytest.mark.parametrize(
    ("num_processes", "batch_size", "accumulation"), [(1, 1, 8), (2, 4, 1), (2, 2, 2)]
)
def test_any_split_of_a_step_has_its_gradient(
    num_processes: int,
    batch_size: int,
    accumulation: int,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    """Batch 8 == 8 x 1 accumulated == 2 processes x 4, within 1e-6 of the gradient's size."""
    split = gradients(tmp_path, num_processes, batch_size, accumulation)
    assert split.keys() == whole.keys()
    total = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
    assert total > 1e-3
    difference = torch.stack([(split[name] - whole[name]).norm() for name in whole]).norm()
    assert difference / total < 1e-6


@pytest.mark.parametrize("options", [(), ("run.precision=fp16", "run.fsdp=true")])
def test_a_process_without_clips_takes_part(options: tuple[str, ...], tmp_path: Path) -> None:
    """Of one clip, the other process gets nothing; of three, one micro-batch is empty. A loss
    scaler that has nothing to scale unscales all the same."""
    precision = options[:1]
    num_clips = 1 if precision else 3
    alone = gradients(tmp_path, 1, num_clips, 1, *precision, num_clips=num_clips)
    shared = gradients(tmp_path, 2, 1, 2, *options, num_clips=num_clips)
    assert shared.keys() == alone.keys()
    total = torch.stack([gradient.norm() for gradient in alone.values()]).norm()
    assert total > 1e-3
    for name, gradient in alone.items():
        assert (shared[name] - gradient).norm() / total < 1e-6, name
