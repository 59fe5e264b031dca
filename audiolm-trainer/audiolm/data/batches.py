"""Which clips go into which batch, and how a batch is put together.

In: clip lengths and a batch size; items of `AudioDataset`. Out: lists of clip positions per
process, and the `samples` dict that the model takes.

Shapes: B clips, M mel bins, T samples at 16 kHz of the longest clip.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from audiolm.audio.loading import JOIN_SILENCE_SECONDS, MAX_SECONDS, AudioError, audio_seconds
from audiolm.data.annotations import Clip, resolve_audio_path
from audiolm.data.dataset import AudioDataset, SkippedClip
from audiolm.errors import UserError

POOL_BATCHES = 50  # clips are sorted by length within this many batches, all processes together
NUM_HEADER_THREADS = 8
SPECTROGRAM_FRAMES = 3000
LIST_KEYS = ("text", "references", "task", "Q", "id", "testset_id", "index", "was_truncated")


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of clips of similar length, seeded by (seed, epoch), shared out over processes.

    Training (`shuffle=True`): clips are shuffled, sorted by length within pools of 50 batches, cut
    into global batches of `batch_size * world_size`, and those are shuffled again; each process
    takes every `world_size`-th clip of a global batch. All processes get the same number of
    batches, and every clip comes once per epoch: a last global batch that is too small for all
    processes shares the clips of its neighbour. Only where that cannot be (one clip per batch, or
    `drop_last`) is a remainder of the epoch's order left out, another one each epoch.

    Evaluation (`shuffle=False`): batches are dealt out in turn and nothing is repeated or left
    out, so processes may get different numbers of batches and clips.

    Args:
        seconds: length of each clip; only the order matters.
        batch_size: clips per process and batch.
        seed: of the shuffling; the same in all processes.
        rank: this process, from 0.
        world_size: number of processes.
        shuffle: training or evaluation, as above.
        drop_last: leave out what does not fill a batch.
        group_by_length: False keeps the (shuffled) order.

    Raises:
        UserError: a batch size below 1, or too few clips for one batch in each training process.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        group_by_length: bool = True,
    ) -> None:
        assert 0 <= rank < world_size
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: it must be at least 1")
        num_needed = (batch_size if drop_last else 1) * (world_size if shuffle else 1)
        if len(seconds) < num_needed:
            raise UserError(
                f"the data set has {len(seconds)} clip(s), and {world_size} process(es) with batch "
                f"size {batch_size} need at least {num_needed}; use fewer processes or more clips"
            )
        self._seconds = np.asarray(seconds, dtype=np.float64)
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._group_by_length = group_by_length
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._train_batches() if self._shuffle else self._eval_batches():
            yield batch.tolist()

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        num_clips, num_places = len(self._seconds), self._batch_size
        if self._shuffle:
            num_full, num_left = divmod(num_clips, num_places * self._world_size)
            is_kept = num_left >= self._world_size or (num_left and num_full and num_places > 1)
            return num_full + (1 if is_kept and not self._drop_last else 0)
        num_batches = num_clips // num_places if self._drop_last else -(-num_clips // num_places)
        return len(range(self._rank, num_batches, self._world_size))

    def _train_batches(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._seconds))
        num_global = self._batch_size * self._world_size
        if self._group_by_length:
            order = self._sort_pools(order, POOL_BATCHES * num_global)
        batches = np.split(order, range(num_global, len(order), num_global))
        if len(batches[-1]) < num_global:
            self._settle_last(batches)
        for position in generator.permutation(len(batches)):
            yield batches[position][self._rank :: self._world_size]

    def _settle_last(self, batches: list[np.ndarray]) -> None:
        """Give every process a part of the last, smaller global batch, or leave it out."""
        last = batches.pop()
        if self._drop_last:
            return
        if len(last) >= self._world_size:
            batches.append(last)
        elif batches and self._batch_size > 1:
            batches += np.array_split(np.concatenate([batches.pop(), last]), 2)

    def _eval_batches(self) -> Iterator[np.ndarray]:
        order = np.arange(len(self._seconds))
        if self._group_by_length:
            order = self._sort_pools(order, len(order))
        batches = np.split(order, range(self._batch_size, len(order), self._batch_size))
        if self._drop_last and len(batches[-1]) < self._batch_size:
            batches.pop()
        yield from batches[self._rank :: self._world_size]

    def _sort_pools(self, order: np.ndarray, pool_size: int) -> np.ndarray:
        """Longest first within each pool; clips of one length keep their order."""
        pools = np.split(order, range(pool_size, len(order), pool_size))
        return np.concatenate(
            [pool[np.argsort(-self._seconds[pool], kind="stable")] for pool in pools]
        )


def clip_seconds(clips: Sequence[Clip], prefix: str | Path) -> list[float]:
    """Length of each clip: as annotated, else by its audio files' headers.

    A clip whose header cannot be read counts as 0 s: it is the data set's policy that decides
    about it, when it is loaded.
    """
    unknown = [clip for clip in clips if clip.seconds is None]
    with ThreadPoolExecutor(NUM_HEADER_THREADS) as pool:
        measured = pool.map(lambda clip: _measure_seconds(clip, prefix), unknown)
        return [next(measured) if clip.seconds is None else clip.seconds for clip in clips]


def _measure_seconds(clip: Clip, prefix: str | Path) -> float:
    paths = (clip.path, *clip.expand_wav)
    try:
        total = sum(audio_seconds(resolve_audio_path(prefix, path)) for path in paths)
    except AudioError:
        return 0.0
    return total + JOIN_SILENCE_SECONDS * len(clip.expand_wav)


def collate(items: Sequence[dict[str, Any] | SkippedClip]) -> dict[str, Any]:
    """Put items of `AudioDataset` together; clips that were skipped are listed, not replaced.

    Returns:
        `spectrogram` (B, M, 3000), `raw_wav` (B, T) zero-padded, `padding_mask` (B, T) True where
        padded, lists of B `text references task Q id testset_id index was_truncated`, and
        `skipped`, a list of `SkippedClip`. B is 0 when every clip was skipped.
    """
    kept = [item for item in items if not isinstance(item, SkippedClip)]
    skipped = [item for item in items if isinstance(item, SkippedClip)]
    lengths = torch.tensor([len(item["raw_wav"]) for item in kept], dtype=torch.int64)
    longest = int(lengths.max()) if kept else 0
    raw_wav = torch.zeros(len(kept), longest)
    for row, item in zip(raw_wav, kept, strict=True):
        row[: len(item["raw_wav"])] = item["raw_wav"]
    spectrograms = [item["spectrogram"] for item in kept]
    samples: dict[str, Any] = {
        "spectrogram": torch.stack(spectrograms) if kept else torch.zeros(0, 0, SPECTROGRAM_FRAMES),
        "raw_wav": raw_wav,
        "padding_mask": torch.arange(longest) >= lengths[:, None],  # (B, T)
        "skipped": skipped,
    }
    for key in LIST_KEYS:
        samples[key] = [item[key] for item in kept]
    return samples


def build_loader(
    dataset: AudioDataset, batch_sampler: LengthGroupedBatchSampler, num_workers: int
) -> DataLoader[Any]:
    """A loader of collated batches; its processes live on from epoch to epoch."""
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # else each epoch advances torch's global one
    )


@dataclass
class AudioTally:
    """What became of the clips of a run: add every batch, then read it off."""

    num_clips: int = 0
    num_truncated: int = 0
    skipped: list[SkippedClip] = field(default_factory=list)

    def add(self, samples: dict[str, Any]) -> None:
        """Count a batch of `collate`."""
        self.num_clips += len(samples["id"])
        self.num_truncated += sum(samples["was_truncated"])
        self.skipped += samples["skipped"]

    def describe(self) -> str:
        """One line: `128 clips, 2 cut to 30 s, 1 skipped: a.wav (no such file)`."""
        line = f"{self.num_clips} clips, {self.num_truncated} cut to {MAX_SECONDS:.0f} s"
        line += f", {len(self.skipped)} skipped"
        if self.skipped:
            line += f": {self.skipped[0].id} ({self.skipped[0].reason})"
        return line + (", ..." if len(self.skipped) > 1 else "")
