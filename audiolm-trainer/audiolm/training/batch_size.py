"""`train.py --find-batch-size`: the largest micro-batch that fits, for all processes together.

In: a training configuration. Out: lines with the size and the options to use. What is tried is the
worst batch that the training data can give, the longest clip with the longest answer, n times,
through forward and backward pass with the optimiser's state allocated. Nothing is left behind.
"""

import copy
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil
import torch

from audiolm.config import Config
from audiolm.data.batches import collate
from audiolm.data.sampler import plan_batches
from audiolm.errors import UserError
from audiolm.training.bad_luck import is_out_of_memory, release_memory
from audiolm.training.engine import sum_everywhere
from audiolm.training.gradients import accumulate_gradients
from audiolm.training.run import Run
from audiolm.training.setup import set_up_run

FREE_SHARE = 0.9  # of the available memory; the rest is the system's
SAMPLE_SECONDS = 0.005  # between two looks at this process's memory


def find_batch_size(config: Config) -> list[str]:
    """Search with the loop's own passes; lines for the user, of the first process.

    Raises:
        UserError: not even one clip fits; or whatever a training run would raise at its start.
    """
    if config.run.fsdp:
        raise UserError(
            "--find-batch-size does not work with run.fsdp: true: a process that runs out of "
            "memory leaves the others waiting in the middle of a layer; look at the longest batch "
            "in --plan, and raise run.batch_size_train from 1"
        )
    trial = copy.deepcopy(config)
    trial.run.loggers = []
    with tempfile.TemporaryDirectory() as folder:
        trial.run.output_dir = folder
        run = set_up_run(trial)
        try:
            return _search(run)
        finally:
            if run.log is not None:
                run.log.close()
            run.accelerator.end_training()


def _search(run: Run) -> list[str]:
    num_processes = run.accelerator.num_processes
    item, seconds = run.train_data.load_longest()
    item |= find_longest_texts(run)
    num_tokens = len(run.model.tokenize_answer(item["text"]))
    trials = Trials(run, item, num_tokens)
    limit = -(-len(run.train_data.clips) // num_processes)
    largest = find_largest(trials.fits, limit) if trials.has_room else 0
    worst = f"{seconds:.1f} s of audio and {num_tokens} answer tokens"
    if not largest:
        raise UserError(
            f"--find-batch-size: not even one clip fits ({worst}, the longest of the training "
            "data); --plan shows what needs the memory and which options need less"
        )
    if not run.accelerator.is_main_process:
        return []
    split = plan_batches(largest, 1, num_processes, run.plan.clips_per_step)
    is_all = ", which is all that the training data hold" if largest == limit else ""
    return [
        f"largest batch that fits in each process: {largest} clips of {worst}{is_all}",
        f"for steps of {split.clips_per_step} clips as configured: run.batch_size_train="
        f"{split.clips_per_process} run.accum_grad_iters={split.num_micro_batches}",
    ]


class Trials:
    """Forward and backward passes of `num` times `item`, on all processes at once.

    `has_room` tells whether the optimiser's state fits.
    """

    def __init__(self, run: Run, item: dict[str, Any], num_tokens: int) -> None:
        self._run = run
        self._item = item
        self._num_tokens = num_tokens
        run.model.train()
        self.has_room = self._agree(_allocate_optimiser_state(run))
        is_cpu = run.accelerator.device.type == "cpu"
        num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._host = HostMemory(num_sharing) if is_cpu else None

    def fits(self, num: int) -> bool:
        """Whether `num` clips fit on every process."""
        if not self._agree(self._host is None or self._host.allows(num)):
            return False
        self._run.optimiser.zero_grad(set_to_none=True)
        samples = collate([{**self._item, "draw_seed": f"{num}/{row}"} for row in range(num)])
        with nullcontext() if self._host is None else self._host.watch(num):
            outputs = accumulate_gradients(self._run, [samples], num * self._num_tokens)
        return self._agree(outputs is not None)

    def _agree(self, fits: bool) -> bool:
        release_memory()
        return sum_everywhere(self._run.accelerator, [not fits])[0] == 0


def find_largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest size from 1 to `limit` that fits, where all below a fitting one fit; else 0.

    Sizes are doubled until one does not fit, then the gap is halved: never more than twice a size
    that is known to fit is tried, and none twice.
    """
    fitting, failing = 0, limit + 1
    size = min(1, limit)
    while fitting + 1 < failing:
        if fits(size):
            fitting, size = size, 2 * size
        else:
            failing = size
        if size >= failing:
            size = (fitting + failing) // 2
    return fitting


class HostMemory:
    """Whether a batch is worth trying on a CPU, where memory is promised long before it is used
    and the system then ends the process without an error to catch.

    The rule: the growth of this process in the last trial, per clip, times the clips to try, must
    be within 90 % of the memory that was available before the first trial (psutil), in equal parts
    for the processes of this machine.
    """

    def __init__(self, num_sharing: int) -> None:
        self._process = psutil.Process()
        self._start_bytes = self._process.memory_info().rss
        self._budget_bytes = FREE_SHARE * psutil.virtual_memory().available / num_sharing
        self._bytes_per_clip = 0.0

    def allows(self, size: int) -> bool:
        """Whether `size` clips should fit; a first size is always tried."""
        return size * self._bytes_per_clip <= self._budget_bytes

    @contextmanager
    def watch(self, size: int) -> Iterator[None]:
        """Inside, `size` clips are tried: note the process's highest memory."""
        peak_bytes = self._process.memory_info().rss
        is_over = threading.Event()

        def look() -> None:
            nonlocal peak_bytes
            while not is_over.wait(SAMPLE_SECONDS):
                peak_bytes = max(peak_bytes, self._process.memory_info().rss)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
        self._bytes_per_clip = max(peak_bytes - self._start_bytes, 0) / size


def find_longest_texts(run: Run) -> dict[str, str]:
    """`text` with the most tokens in the training data, and the `task` and question `Q` whose
    longest prompt has the most letters."""
    clips = run.train_data.clips
    texts = {text for clip in clips for text in clip.texts}
    prompts = run.model.prompts
    assert prompts is not None
    longest = {task: max(map(len, prompts.choices(task))) for task in run.train_data.tasks}
    pairs = {(clip.task, clip.question) for clip in clips}
    task, question = max(sorted(pairs), key=lambda pair: longest[pair[0]] + len(pair[1]))
    text = max(sorted(texts), key=lambda text: len(run.model.tokenize_answer(text)))
    return {"text": text, "task": task, "Q": question}


def _allocate_optimiser_state(run: Run) -> bool:
    """Let the optimiser make its moments, as after a first step; False when memory runs out."""
    try:
        for parameter in run.trained:
            parameter.grad = torch.zeros_like(parameter)
        run.optimiser.step()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
