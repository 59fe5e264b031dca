"""Training batches as a run gets them: equal in every split, resumed midway, within limits."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiolm.config import Config
from audiolm.config_file import build_config
from audiolm.data.batches import padding_share
from audiolm.data.sampler import plan_batches
from audiolm.errors import UserError
from audiolm.training.data import ClipBatches

WHISPER = Path(__file__).resolve().parent / "data" / "golden" / "dev" / "components" / "whisper"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 clips between 1 and 4 s, without lengths in the annotation, and the first 5 once more."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(23):
        name = f"{number}.wav"
        samples = 0.1 * generator.standard_normal(round(generator.uniform(1, 4) * 16_000))
        soundfile.write(folder / name, samples, 16_000)
        rows.append({"path": name, "text": [f"text {number}", "other"]})
    (folder / "all.json").write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    (folder / "few.json").write_text(json.dumps({"annotation": rows[:5]}), encoding="utf-8")
    return folder


def make_config(corpus: Path, run: dict[str, Any], **datasets: Any) -> Config:
    datasets = {"prefix": str(corpus), "whisper_path": str(WHISPER), **datasets}
    return build_config({"datasets": datasets, "run": {"num_workers": 0, **run}})


def open_batches(
    config: Config,
    annotation: Any,
    rank: int = 0,
    world_size: int = 1,
    clips_per_step: int | None = None,
) -> ClipBatches:
    run = config.run
    plan = plan_batches(run.batch_size_train, run.accum_grad_iters, world_size, clips_per_step)
    accelerator: Any = SimpleNamespace(process_index=rank, num_processes=world_size)
    return ClipBatches(config, annotation, accelerator, plan)


def describe_clips(samples: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the model would see of each clip, and what is drawn for it."""
    lengths = (~samples["padding_mask"]).sum(dim=1).tolist()
    rows = zip(samples["raw_wav"], samples["spectrogram"], lengths, strict=True)
    values = [(wav[:length].numpy().tobytes(), mel.numpy().tobytes()) for wav, mel, length in rows]
    keys = zip(samples["draw_seed"], samples["text"], samples["id"], strict=True)
    return [(samples["step_seed"], *key, *value) for key, value in zip(keys, values, strict=True)]


def take_steps(
    config: Config, annotation: Any, num_steps: int, start: int = 0, **split: Any
) -> list[list[tuple[Any, ...]]]:
    """The clips of each step, from all processes."""
    world_size = split.get("world_size", 1)
    steps: list[list[tuple[Any, ...]]] = [[] for _ in range(num_steps)]
    for rank in range(world_size):
        data = open_batches(config, annotation, rank, **split)
        assert data.plan is not None
        num_micro_batches = data.plan.num_micro_batches
        stream = itertools.islice(data.endless(start), num_steps * num_micro_batches)
        for position, samples in enumerate(stream):
            steps[position // num_micro_batches] += describe_clips(samples)
    return [sorted(step) for step in steps]


AUGMENT = {"speed": [0.8, 1.2], "noise_snr_db": [10, 20], "specaugment": {"num_time_masks": 1}}


@pytest.mark.parametrize("batch_seconds", [0.0, 7.0])
def test_every_split_shows_the_same_clips_with_the_same_draws(
    corpus: Path, batch_seconds: float
) -> None:
    """4 x 1, 2 x 2 accumulated, 1 x 2 x 2 processes, 1 x 4 processes: order, text, audio."""
    found = []
    annotation = [{"path": str(corpus / "all.json"), "weight": 1.5}]
    splits = [(4, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4)]
    if batch_seconds:  # limits hold per share: those with as many shares are alike
        splits = [(2, 4, 1), (2, 2, 2), (2, 1, 4)]
    for batch_size, accumulation, world_size in splits:
        run = {"batch_size_train": batch_size, "accum_grad_iters": accumulation}
        run |= {"batch_seconds": batch_seconds}
        config = make_config(corpus, run, group_by_length=True, augment=AUGMENT)
        found.append(take_steps(config, annotation, 14, world_size=world_size))
    assert all(steps == found[0] for steps in found[1:])
    assert len({seed for step in found[0] for seed, *_ in step}) == 14  # a step_seed for each


def test_run_goes_on_in_the_middle_on_other_processes(corpus: Path) -> None:
    """23 clips in steps of 4: six per pass, one of them smaller."""
    annotation = str(corpus / "all.json")
    config = make_config(corpus, {"batch_size_train": 2}, group_by_length=True)
    straight = take_steps(config, annotation, 12, world_size=2)
    for world_size, start in ((1, 4), (4, 7), (2, 6)):
        rest = take_steps(
            config, annotation, 12 - start, start, world_size=world_size, clips_per_step=4
        )
        assert rest == straight[start:]
    one_pass = [path for step in straight[:6] for _, _, _, path, *_ in step]
    assert sorted(len(step) for step in straight[:6]) == [3, 4, 4, 4, 4, 4]
    assert sorted(one_pass) == sorted(f"{number}.wav" for number in range(23))


def test_nothing_is_loaded_before_the_start(corpus: Path) -> None:
    config = make_config(corpus, {"batch_size_train": 4})
    data = open_batches(config, str(corpus / "all.json"))
    samples = next(data.endless(5))
    assert data.tally.num_clips == len(samples["id"]) <= 4


def test_steps_are_counted_ahead(corpus: Path) -> None:
    run = {"batch_size_train": 4, "accum_grad_iters": 2, "batch_seconds": 8.0}
    annotation = [str(corpus / "few.json"), {"path": str(corpus / "all.json"), "weight": 0.7}]
    data = open_batches(make_config(corpus, run), annotation)
    counted = [len(list(data.one_pass(number))) for number in range(4)]
    assert [data.count_steps(n) for n in range(5)] == [sum(counted[:n]) // 2 for n in range(5)]
    assert data.steps_per_pass == data.count_steps(1)


def test_batch_seconds_hold_for_slowed_clips(corpus: Path) -> None:
    run = {"batch_size_train": 16, "batch_seconds": 10.0}
    config = make_config(corpus, run, augment={"speed": [0.7, 0.8]})
    data = open_batches(config, str(corpus / "all.json"))
    shapes = [samples["raw_wav"].shape for samples in data.one_pass(0)]
    assert sum(rows for rows, _ in shapes) == 23
    assert all(rows * samples <= 10 * 16_000 or rows == 1 for rows, samples in shapes)
    assert max(rows for rows, _ in shapes) > 3


def test_grouping_lowers_the_padding_share(corpus: Path) -> None:
    shares = []
    for groups in (True, False):
        config = make_config(corpus, {"batch_size_train": 6}, group_by_length=groups)
        data = open_batches(config, str(corpus / "all.json"))
        shares.append(np.mean([padding_share(samples) for samples in data.one_pass(0)]))
    assert shares[0] < 0.6 * shares[1]


def test_validation_is_plain(corpus: Path) -> None:
    """Not augmented, no step seeds, each clip once."""
    config = make_config(corpus, {"batch_size_eval": 5}, augment=AUGMENT)
    plain = make_config(corpus, {"batch_size_eval": 5})
    accelerator: Any = SimpleNamespace(process_index=0, num_processes=1)
    annotation = str(corpus / "all.json")
    batches = list(ClipBatches(config, annotation, accelerator).one_pass(0))
    paths = [path for samples in batches for path in samples["id"]]
    assert paths == [f"{number}.wav" for number in range(23)]
    assert "step_seed" not in batches[0]
    expected = list(ClipBatches(plain, annotation, accelerator).one_pass(0))
    pairs = zip(batches, expected, strict=True)
    assert all(torch.equal(one["raw_wav"], other["raw_wav"]) for one, other in pairs)


def test_run_on_processes_that_cannot_share_its_step(corpus: Path) -> None:
    config = make_config(corpus, {"batch_size_train": 2})
    with pytest.raises(UserError, match="3 processes cannot share them; .* e.g. 2 or 4"):
        open_batches(config, str(corpus / "all.json"), world_size=3, clips_per_step=4)
