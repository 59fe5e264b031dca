"""`run.fsdp`: an LLM split over two processes trains, answers and resumes like a whole one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_gradients import gradients, take_step
from training_runs import DEV, read_log, run_folders, run_train

from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.sharding import check_sharding

# Three validation clips on two processes: one keeps the other company. Answers differ in length.
OPTIONS = (
    "run.iters_per_epoch=4",
    "run.batch_size_eval=1",
    "run.eval_clips=3",
    "run.log_freq=1",
    "run.num_workers=0",
    "run.save_every_steps=3",
    "run.keep_last=0",
    "generate.max_new_tokens=6",
    "generate.num_beams=2",
    "model.gradient_checkpointing=llm",
    "model.lora_dropout=0.1",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return gradients(tmp_path_factory.mktemp("whole"), 1, 7, 1, num_clips=7)


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert total > 1e-3
    difference = torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm()
    assert difference / total < 1e-6


def test_a_sharded_step_has_the_gradient_of_a_whole_one(
    whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Seven clips, so that one process has a micro-batch more than the other."""
    step = take_step(tmp_path, 2, 1, 4, "run.fsdp=true", num_clips=7)
    assert_same_gradients(step["gradients"], whole)
    assert step["num_sharded"] > 10_000
    assert step["num_held"] == step["num_sharded"] / 2


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("unsharded"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("sharded"), "run.fsdp=true")


def train(tmp_path: Path, *changes: str) -> Path:
    """The folder of a run of two processes."""
    rows = json.loads((DEV / "annotation_asr.json").read_text())["annotation"][:3]
    annotation = tmp_path.parent / "valid.json"
    annotation.write_text(json.dumps({"annotation": rows}))
    where = (f"datasets.valid_ann_path={annotation}", f"datasets.prefix={DEV}/audio")
    run_train(tmp_path, *OPTIONS, *where, *changes, num_processes=2)
    (folder,) = run_folders(tmp_path)
    return folder


def results(folder: Path) -> list[tuple[int, float, float]]:
    records = [record for record in read_log(folder) if record["event"] == "train"]
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records]


def test_a_sharded_run_is_the_unsharded_one(sharded: Path, unsharded: Path) -> None:
    """Losses, answers, scores and the files themselves; dropout and checkpointed layers too."""
    assert results(sharded) == results(unsharded)
    summaries = [json.loads((f / "summary.json").read_text()) for f in (sharded, unsharded)]
    assert summaries[0]["validations"] == summaries[1]["validations"]
    assert (sharded / "samples.json").read_text() == (unsharded / "samples.json").read_text()
    for name in ("checkpoint_0.pth", "checkpoint_1.pth"):
        found, expected = (read_checkpoint(f / name) for f in (sharded, unsharded))
        assert found["model"].keys() == expected["model"].keys()
        assert all(torch.equal(v, expected["model"][k]) for k, v in found["model"].items())
        assert type(found["model"]["speech_query_tokens"]) is torch.Tensor


@pytest.mark.parametrize("is_sharded_after", [False, True])
def test_a_run_goes_on_with_and_without_shards(
    is_sharded_after: bool, sharded: Path, unsharded: Path, tmp_path: Path
) -> None:
    before = unsharded if is_sharded_after else sharded
    folder = Path(shutil.copytree(before, tmp_path / before.name))
    for name in ("summary.json", "checkpoint_0.pth", "checkpoint_1.pth"):
        (folder / name).unlink()  # what is left ends with step 3 and step 6
    for path in folder.glob("checkpoint_step6.*"):
        path.unlink()
    assert train(tmp_path, f"run.fsdp={is_sharded_after}".lower(), "--resume", "auto") == folder
    assert results(folder)[-5:] == results(unsharded)[-5:]


def refuse(*changes: str, num_processes: int = 2) -> str:
    args = ["run.fsdp=true", *changes]
    with pytest.raises(UserError) as caught:
        check_sharding(load_config(str(DEV / "config_lora.yaml"), args), num_processes)
    return str(caught.value)


def test_what_cannot_be_sharded_is_refused() -> None:
    assert "there is one; launch with torchrun" in refuse(num_processes=1)
    assert "model.quantization: nf4" in refuse("model.quantization=nf4")
    assert "model.quantization: nf4" in refuse("model.low_resource=true")
    assert "model.objective: ctc" in refuse("model.objective=ctc")
    assert "model.freeze_llm: false" in refuse("model.freeze_llm=false")
    check_sharding(load_config(str(DEV / "config_lora.yaml"), ["run.fsdp=true"]), 2)
