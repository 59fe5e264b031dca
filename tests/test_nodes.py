"""Several machines: two torchrun agents on loopback, and a worker that is killed and comes back."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from training_runs import TRAIN, arguments, read_log, run_folders, run_train, torchrun

from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.saving import find_saves

OPTIONS = (
    "model.lora_dropout=0.1",
    "run.iters_per_epoch=8",
    "run.optims.max_epoch=1",
    "run.batch_size_train=1",
    "run.save_every_steps=1",
    "run.keep_last=0",
    "run.num_workers=0",
)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def agent(*options: str) -> list[str]:
    """The start of a command on one node that meets the others at a port of this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--rdzv_backend=c10d", *options]


@contextmanager
def started(command: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that is running; it and its children are gone afterwards."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (tmp_path / f"{time.monotonic_ns()}.txt").open("w+")
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, text=True, env=env, cwd=tmp_path
    )
    family = psutil.Process(process.pid)
    try:
        yield process
        if process.returncode:
            log.seek(0)
            pytest.fail(log.read()[-3000:])
    finally:
        if process.poll() is None:
            for child in [*family.children(recursive=True), family]:
                child.kill()
            process.wait()
        log.close()


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
    """The folder of a run of two processes on one node, undisturbed."""
    tmp_path = tmp_path_factory.mktemp("one_node")
    run_train(torchrun(2), tmp_path, *OPTIONS)
    return the_run(tmp_path)


def test_two_nodes_train_like_one(one_node: Path, tmp_path: Path) -> None:
    where = f"--rdzv_endpoint=127.0.0.1:{find_free_port()}"
    node = agent("--nnodes=2", "--nproc_per_node=1", "--rdzv_id=two_nodes", where)
    command = [*node, str(TRAIN), *arguments(tmp_path, *OPTIONS)]
    with started(command, tmp_path) as first, started(command, tmp_path) as second:
        second.wait(timeout=500)
        first.wait(timeout=500)
    assert_same_weights(one_node, the_run(tmp_path))


def test_a_killed_worker_comes_back_and_the_run_ends_as_if_nothing_had_been(
    one_node: Path, tmp_path: Path
) -> None:
    """torchrun restarts both workers, and `--resume auto` goes on from the last save."""
    where = f"--rdzv_endpoint=127.0.0.1:{find_free_port()}"
    launcher = agent("--nproc_per_node=2", "--max_restarts=5", "--rdzv_id=restart", where)
    command = [*launcher, str(TRAIN), *arguments(tmp_path, *OPTIONS), "--resume", "auto"]
    with started(command, tmp_path) as process:
        while not (folders := run_folders(tmp_path)) or len(find_saves(folders[0])) < 2:
            assert process.poll() is None, "it ended before a worker was killed"
            time.sleep(0.05)
        find_worker(process.pid, rank=1).kill()
        process.wait(timeout=500)
    folder = the_run(tmp_path)
    # More than once where the machine is so busy that a restarted worker misses its rendezvous.
    resumed = [record for record in read_log(folder) if record["event"] == "resume"]
    assert all(2 <= record["step"] < 8 for record in resumed)
    assert resumed
    assert_same_weights(one_node, folder)
    summaries = [json.loads((f / "summary.json").read_text()) for f in (one_node, folder)]
    assert summaries[0]["validations"] == summaries[1]["validations"]


def find_worker(agent_pid: int, rank: int) -> psutil.Process:
    """The process of a rank among an agent's children."""
    children = psutil.Process(agent_pid).children()
    (worker,) = [child for child in children if child.environ().get("RANK") == str(rank)]
    return worker
