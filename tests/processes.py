"""Real processes for tests, one or a group of ranks, that start in a moment.

They are forked from a server that has imported the toolkit once, and has done nothing else
(multiprocessing's forkserver); starting Python and importing torch and transformers takes five
seconds each time. In: a `main(arguments)`, as the command lines have. Out: exit statuses and what
was printed. `torchrun` itself, which starts Python anew, is for `test_nodes`.
"""

import functools
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
import torch

from audiolm.errors import run_command

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = [
    "accelerate",
    "peft",
    "psutil",
    "soundfile",
    "torch.distributed.fsdp",
    "torch.distributed.run",
    "tqdm",
    "train",
    "transformers.models.blip_2.modeling_blip_2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.whisper.modeling_whisper",
    "audiolm.evaluation.scores",
    "audiolm.training.batch_size",
    "audiolm.training.setup",
    "audiolm.training.validation",
]
PATIENCE_SECONDS = 1500  # processes that wait for each other would do so for ever; a busy machine
GRACE_SECONDS = 60
Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Outcome:
    """Of the ranks in turn. A status below zero is the signal that ended the process."""

    statuses: tuple[int, ...]
    stdout: str
    stderr: str


class Group:
    """Ranks that run `main(arguments)` as a script would; see `started`."""

    def __init__(
        self, main: Main, arguments: Sequence[str], num: int, cwd: Path, **env: str
    ) -> None:
        self._output_dir = tempfile.TemporaryDirectory()
        self.processes = []
        port = find_free_port()
        for rank in range(num):
            variables = _variables(env, rank, num, port)
            place = Path(self._output_dir.name) / str(rank)
            what = (main, list(arguments), variables, str(place), str(cwd))
            process = _context().Process(target=_run_script, args=what)
            process.start()
            self.processes.append(process)

    @property
    def is_running(self) -> bool:
        """All of them."""
        return all(process.is_alive() for process in self.processes)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Until all have ended; those that wait for one that failed are killed in the end."""
        deadline = time.monotonic() + seconds
        while left := [process for process in self.processes if process.is_alive()]:
            wait([process.sentinel for process in left], max(deadline - time.monotonic(), 0))
            if any(process.exitcode for process in self.processes):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() >= deadline:
                self.kill()
        return self.read()

    def kill(self) -> None:
        """SIGKILL, to what they have started too."""
        for process in self.processes:
            if process.is_alive():
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.join()

    def read(self) -> Outcome:
        """What there is so far."""
        statuses = tuple(process.exitcode or 0 for process in self.processes)
        texts = []
        for suffix in (".out", ".err"):
            paths = sorted(Path(self._output_dir.name).glob(f"*{suffix}"))
            texts.append("".join(path.read_text(encoding="utf-8") for path in paths))
        return Outcome(statuses, *texts)


@contextmanager
def started(
    main: Main, arguments: Sequence[str], cwd: Path, num_processes: int = 1, **env: str
) -> Iterator[Group]:
    """Processes that are running; they are gone afterwards.

    Args:
        main: importable by its name.
        arguments: what it is given.
        cwd: current directory.
        num_processes: 1: one without a rank; more: ranks, with torchrun's variables.
        env: variables besides the present ones; an empty one is taken away.
    """
    group = Group(main, arguments, num_processes, cwd, **env)
    try:
        yield group
    finally:
        group.kill()


def run(
    main: Main, arguments: Sequence[str], cwd: Path, num_processes: int = 1, **env: str
) -> Outcome:
    """Start and wait; the arguments are those of `started`."""
    with started(main, arguments, cwd, num_processes, **env) as group:
        return group.wait()


def find_free_port() -> int:
    """Of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def _context() -> Any:
    """The server starts with the first process and ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    paths = (str(ROOT / "audiolm-trainer"), str(ROOT / "tests"), str(ROOT))
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1")
    try:
        context.Process(target=_nothing).start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _nothing() -> None:
    """The first process' work: the server starts with it, in the environment of that moment."""


def _variables(env: Mapping[str, str], rank: int, num: int, port: int) -> dict[str, str]:
    """The environment of a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WANDB"))}
    variables = {**kept, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **env}
    if num > 1:
        variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)}
        variables |= {"LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1"}
        variables |= {"MASTER_PORT": str(port)}
    return {name: value for name, value in variables.items() if value}


def _run_script(
    main: Main, arguments: list[str], variables: dict[str, str], place: str, cwd: str
) -> None:
    """In the new process: what the end of a script does, with output in files."""
    for number, suffix in ((1, ".out"), (2, ".err")):
        with open(place + suffix, "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    torch.set_num_threads(1)
    sys.argv = ["script.py", *arguments]
    run_command(main)
