"""Several machines: two torchrun agents on loopback, and a worker that is killed and comes back."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from processes import PATIENCE_SECONDS, Group, find_free_port, started
from torch.distributed.run import main as run_agent
from training_runs import TRAIN, arguments, read_log, run_folders, run_train

from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.engine import OWN_STORE_VARIABLE

OPTIONS = (
    "model.lora_dropout=0.1",
    "run.iters_per_epoch=8",
    "run.optims.max_epoch=1",
    "run.batch_size_train=1",
    "run.save_every_steps=1",
    "run.keep_last=0",
    "run.num_workers=0",
)


def the_run(tmp_path: Path) -> Path:
    (folder,) = run_folders(tmp_path)
    return folder


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    first, second = (read_checkpoint(f / "checkpoint_0.pth")["model"] for f in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes without torchrun, undisturbed."""
    tmp_path = tmp_path_factory.mktemp("one_node")
    run_train(tmp_path, *OPTIONS, num_processes=2)
    return the_run(tmp_path)


def agent(tmp_path: Path, *options: str, resume: str = "") -> list[str]:
    """torchrun's arguments: a node that meets the others at a port of this machine."""
    more = ["--resume", resume] if resume else []
    return ["--rdzv_backend=c10d", *options, str(TRAIN), *arguments(tmp_path, *OPTIONS), *more]


def test_two_nodes_train_like_one(one_node: Path, tmp_path: Path) -> None:
    where = f"--rdzv_endpoint=127.0.0.1:{find_free_port()}"
    node = agent(tmp_path, "--nnodes=2", "--nproc_per_node=1", "--rdzv_id=two_nodes", where)
    node.insert(0, "--max_restarts=1")
    with started(torchrun, node, tmp_path) as first, started(torchrun, node, tmp_path) as second:
        outcomes = [second.wait(), first.wait()]
        for outcome in outcomes:
            assert outcome.statuses == (0,), outcome.stderr[-3000:]
    stderr = "".join(outcome.stderr for outcome in outcomes)
    assert stderr.count(f"without {OWN_STORE_VARIABLE}=1") == 1  # told once, by the main process
    assert_same_weights(one_node, the_run(tmp_path))


def torchrun(arguments: Sequence[str]) -> int:
    """One agent; its workers are `python train.py`."""
    run_agent(list(arguments))
    return 0


def test_a_killed_worker_comes_back_and_the_run_ends_as_if_nothing_had_been(
    one_node: Path, tmp_path: Path
) -> None:
    """torchrun restarts both workers, and `--resume auto` goes on from the last save."""
    where = f"--rdzv_endpoint=127.0.0.1:{find_free_port()}"
    options = ("--nproc_per_node=2", "--max_restarts=5", "--rdzv_id=restart", where)
    command = agent(tmp_path, *options, resume="auto")
    with started(torchrun, command, tmp_path, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1") as group:
        wait_for_saves(group, tmp_path, 2)
        find_worker(group, rank=1).kill()
        outcome = group.wait()
        assert outcome.statuses == (0,), outcome.stderr[-3000:]
        assert OWN_STORE_VARIABLE not in outcome.stderr
    folder = the_run(tmp_path)
    resumed = [record for record in read_log(folder) if record["event"] == "resume"]
    assert all(2 <= record["step"] < 8 for record in resumed)
    assert len(resumed) == 1
    assert_same_weights(one_node, folder)
    summaries = [json.loads((f / "summary.json").read_text()) for f in (one_node, folder)]
    assert summaries[0]["validations"] == summaries[1]["validations"]


def wait_for_saves(group: Group, tmp_path: Path, num: int) -> None:
    """Until the run has that many; by the names of files alone, since it is writing them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(list(tmp_path.glob("*/*.state"))) < num:
        assert group.is_running, group.read().stderr[-3000:]
        assert time.monotonic() < deadline, group.read().stderr[-3000:]
        time.sleep(0.05)


def find_worker(group: Group, rank: int) -> psutil.Process:
    """The process of a rank among an agent's children."""
    (agent,) = group.processes
    children = psutil.Process(agent.pid).children()
    (worker,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    return worker
