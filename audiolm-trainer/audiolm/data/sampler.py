"""Which clips go into which batch, in training and in evaluation.

In: clip lengths, batch sizes, a seed. Out: lists of clip positions for one process.

Training is cut in two moves. First into *step batches*: the clips of one optimiser step, over all
processes and all accumulated micro-batches. Their order and content know nothing of processes.
Then each step batch is split: a micro-batch is a contiguous piece of it, sorted by length, and a
process takes every n-th clip of the piece. Batch 8 on one process, 8 x 1 accumulated and
2 processes x 4 so show the same clips in the same steps, and a run can go on with another split.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from audiolm.errors import UserError

POOL_STEPS = 50  # clips are sorted by length within this many full step batches


@dataclass(frozen=True)
class BatchPlan:
    """How the clips of one optimiser step are shared out; see `plan_batches`.

    Attributes:
        clips_per_step: of a full step, all processes and micro-batches together.
        clips_per_process: of a full micro-batch, in each process.
        num_micro_batches: accumulated per step, in each process.
    """

    clips_per_step: int
    clips_per_process: int
    num_micro_batches: int


def plan_batches(
    batch_size: int, accumulation: int, world_size: int, clips_per_step: int | None = None
) -> BatchPlan:
    """The split of a step over `world_size` processes.

    Args:
        batch_size: clips per process and micro-batch, as configured.
        accumulation: micro-batches per step, as configured.
        world_size: number of processes.
        clips_per_step: of the run that is resumed: `batch_size` is kept and `accumulation` gives
            way, or else the largest smaller batch that divides is taken. None: a new run, whose
            step is `batch_size * accumulation * world_size`.

    Raises:
        UserError: the processes cannot share `clips_per_step`.
    """
    if clips_per_step is None:
        return BatchPlan(batch_size * accumulation * world_size, batch_size, accumulation)
    per_process, num_left = divmod(clips_per_step, world_size)
    if num_left:
        fitting = [n for n in range(1, clips_per_step + 1) if clips_per_step % n == 0]
        near = [max(n for n in fitting if n < world_size)]
        near += [n for n in fitting if n > world_size][:1]
        raise UserError(
            f"the run's step has {clips_per_step} clips: {world_size} processes cannot share them; "
            f"use a number of processes that divides {clips_per_step}, e.g. "
            f"{' or '.join(str(n) for n in near)}"
        )
    fitting_size = max(n for n in range(1, batch_size + 1) if per_process % n == 0)
    return BatchPlan(clips_per_step, fitting_size, per_process // fitting_size)


class StepBatchSampler(Sampler[list[int]]):
    """Training batches: seeded by (seed, epoch), the same steps however they are split.

    Each epoch its clips are shuffled, sorted by length within pools of 50 step batches, cut into
    step batches, and those are shuffled. Every clip of the epoch comes once; what does not fill a
    step is a smaller step. Each step yields exactly `num_micro_batches` lists on every process; in
    a small step some of them may be empty.

    With `share_seconds`, a share (the part of one process in one micro-batch) holds at most that
    much padded audio: its longest clip times its clips. A single longer clip is a share by itself.
    What goes into a step then depends on `step_size`, `share_seconds` and `num_shares` alone, and
    the limit holds in every split of the step into at least `num_shares` shares. The number of
    steps may differ from epoch to epoch, never from process to process.

    Args:
        seconds: length of each clip, from position 0.
        step_size: clips in a step batch, at most.
        num_micro_batches: pieces of a step, accumulated one after the other.
        rank: this process, from 0.
        world_size: number of processes.
        seed: of the shuffling; the same in all processes.
        share_seconds: padded audio seconds per share; 0: no such limit.
        num_shares: shares that a step is filled for; used with `share_seconds` only.
        group_by_length: False keeps the shuffled order; `share_seconds` always groups.
        choose_clips: epoch -> positions of its clips, such as `Mixture.positions`; None: all,
            each once.

    Raises:
        UserError: there is no clip.
    """

    def __init__(
        self,
        seconds: Sequence[float] | np.ndarray,
        *,
        step_size: int,
        num_micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int,
        share_seconds: float = 0.0,
        num_shares: int = 1,
        group_by_length: bool = True,
        choose_clips: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        assert min(step_size, num_micro_batches, num_shares) >= 1
        if not len(seconds):
            raise UserError("the training data hold no clip; check datasets.train_ann_path")
        self._seconds = np.asarray(seconds, dtype=np.float64)
        self._step_size = step_size
        self._num_micro_batches = num_micro_batches
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._share_seconds = share_seconds
        self._num_shares = num_shares
        self._group_by_length = group_by_length or share_seconds > 0
        self._choose_clips = choose_clips or (lambda epoch: np.arange(len(self._seconds)))
        self._epoch = 0
        self._start = 0
        self._num_steps: dict[int, int] = {}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next, from its first step on."""
        self._epoch = epoch
        self._start = 0

    def set_start(self, step: int) -> None:
        """Begin the chosen epoch at its step batch `step`; nothing before it is loaded."""
        assert 0 <= step <= self.num_steps(self._epoch)
        self._start = step

    def __iter__(self) -> Iterator[list[int]]:
        for clips in self._plan_epoch(self._epoch).iterate_from(self._start):
            for piece in self._split(clips):
                yield piece[self._rank :: self._world_size].tolist()

    def __len__(self) -> int:
        """Micro-batches of this process from the chosen start to the end of the epoch."""
        return (self.num_steps(self._epoch) - self._start) * self._num_micro_batches

    def num_steps(self, epoch: int) -> int:
        """Step batches in an epoch: the same on every process."""
        if epoch not in self._num_steps:
            if self._share_seconds:
                self._num_steps[epoch] = len(self._plan_epoch(epoch).order)
            else:
                self._num_steps[epoch] = -(-len(self._choose_clips(epoch)) // self._step_size)
        return self._num_steps[epoch]

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch that holds step `step` of the whole training, and the step's place in it."""
        epoch = 0
        while step >= self.num_steps(epoch):
            step -= self.num_steps(epoch)
            epoch += 1
        return epoch, step

    def _plan_epoch(self, epoch: int) -> "_EpochPlan":
        """All step batches of an epoch, in order."""
        generator = np.random.default_rng((self._seed, epoch))
        clips = self._choose_clips(epoch)
        pool_size = POOL_STEPS * self._step_size
        clips = clips[generator.permutation(len(clips))]
        edges = [0]
        for first in range(0, len(clips), pool_size):
            pool = clips[first : first + pool_size]
            if self._group_by_length:
                pool[:] = sort_longest_first(pool, self._seconds)
            edges += [first + end for end in self._cut(pool)]
        return _EpochPlan(clips, np.array(edges), generator.permutation(len(edges) - 1))

    def _cut(self, pool: np.ndarray) -> Iterator[int]:
        """Where each step batch of a pool ends; the last may be smaller."""
        start = 0
        while start < len(pool):
            size = self._step_size
            if self._share_seconds:  # then the pool is sorted: the first clip is the longest
                longest = float(self._seconds[pool[start]])
                per_share = max(int(self._share_seconds // max(longest, 1e-3)), 1)
                size = min(size, per_share * self._num_shares)
            start = min(start + size, len(pool))
            yield start

    def _split(self, clips: np.ndarray) -> Iterator[np.ndarray]:
        """The micro-batches of a step, all processes together, as even as can be."""
        clips = sort_longest_first(clips, self._seconds)
        num_rounds = -(-len(clips) // self._world_size)  # a round: one clip for each process
        numbers = np.arange(self._num_micro_batches + 1)
        edges = numbers * num_rounds // self._num_micro_batches * self._world_size
        return (clips[start:end] for start, end in itertools.pairwise(edges))


@dataclass(frozen=True)
class _EpochPlan:
    """The step batches of an epoch: three arrays, however many there are.

    Attributes:
        clips: (N,) positions of the epoch's clips, step batch after step batch.
        edges: (S + 1,) where each step batch starts in them, and where the last ends.
        order: (S,) the order in which the step batches come.
    """

    clips: np.ndarray
    edges: np.ndarray
    order: np.ndarray

    def iterate_from(self, start: int) -> Iterator[np.ndarray]:
        """Step batches from the `start`-th on."""
        for number in self.order[start:]:
            yield self.clips[self.edges[number] : self.edges[number + 1]]


class EvaluationBatchSampler(Sampler[list[int]]):
    """Every clip exactly once: batches are dealt out to the processes in turn.

    Processes may get different numbers of batches and clips.

    Args:
        seconds: length of each clip; only the order matters.
        batch_size: clips per process and batch.
        rank: this process, from 0.
        world_size: number of processes.
        group_by_length: longest first; False keeps the order.

    Raises:
        UserError: a batch size below 1, or no clip.
    """

    def __init__(
        self,
        seconds: Sequence[float] | np.ndarray,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        group_by_length: bool = True,
    ) -> None:
        assert 0 <= rank < world_size
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: it must be at least 1")
        if not len(seconds):
            raise UserError("the data set holds no clip; check its annotation")
        order = np.arange(len(seconds))
        if group_by_length:
            order = sort_longest_first(order, np.asarray(seconds, dtype=np.float64))
        batches = np.split(order, range(batch_size, len(order), batch_size))
        self._batches = batches[rank::world_size]

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self._batches)

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._batches)


def sort_longest_first(clips: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Positions sorted by falling length; clips of one length keep their order."""
    return clips[np.argsort(-seconds[clips], kind="stable")]
