"""The feature cache of a training run: outputs of the frozen encoders, computed before it starts.

In: the configuration and every clip of training and validation. Out: a `FeatureCache` that holds
them all. Missing clips are encoded by all processes, shard by shard; whatever interrupts that, the
next start goes on after the last complete shards. Clips are encoded one at a time, so what is
stored depends neither on the number of processes nor on where an earlier start stopped.

All processes, on one machine or several, must see the same folder.
"""

import gc
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader

from audiolm.audio.loading import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE_HZ, AudioError
from audiolm.config import Config
from audiolm.data.annotations import Clip
from audiolm.data.batches import clip_seconds
from audiolm.data.dataset import AudioDataset
from audiolm.data.feature_cache import FeatureCache, identify_clips, name_audio
from audiolm.data.feature_shards import (
    FeatureStore,
    FrameFormat,
    ShardWriter,
    alone_in,
    remove_leftovers,
)
from audiolm.errors import UserError
from audiolm.models.audio_tokens import plan_frames
from audiolm.models.build import read_audio_options, read_encoder_sizes
from audiolm.models.quantisation import choose_encoder_dtype
from audiolm.models.whisper import SAMPLES_PER_FRAME
from audiolm.training.data import build_dataset, load_log_mel
from audiolm.training.feature_encoder import (
    AudioToEncode,
    ClipEncoder,
    count_stored_frames,
    measure_difference,
)
from audiolm.training.feature_key import check_cache_options, open_cache_folder

T = TypeVar("T")
SHARD_BYTES = 512 * 2**20
MAX_SHARD_CLIPS = 512
SPARE_DISK_SHARE = 0.02  # of the estimate, for indexes and rounding
REPORT_SECONDS = 10.0
# Largest difference between stored and live outputs, relative to their size. Another batch size,
# number of threads or GPU rounds differently; other weights or damage differ by far more.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def ensure_features(
    config: Config,
    accelerator: Accelerator,
    clips: Iterable[Clip],
    *,
    dtype: torch.dtype,
    report: Callable[[str], None],
) -> FeatureCache | None:
    """The stored encoder outputs of `clips`; what is missing is computed first.

    Every process calls it, before the model is built (with `has_encoders=False`, if this does not
    return None). Encoders are loaded only to compute or to check, and released.

    Args:
        config: the whole configuration; without `datasets.feature_cache` the result is None.
        accelerator: knows the processes and the device.
        clips: of training and validation.
        dtype: of the frozen parts, as given to `build_salmonn`.
        report: takes lines for the user; called in the main process.

    Raises:
        UserError: options that rule out a cache, too little room, audio that cannot be used where
            `datasets.bad_audio` is "error", or stored outputs that the encoders do not give.
    """
    if not config.datasets.feature_cache:
        return None
    check_cache_options(config)
    dtype = choose_encoder_dtype(config.model, dtype, accelerator.device)
    unique: dict[tuple[str, ...], Clip] = {}
    for clip in clips:
        unique.setdefault(name_audio(clip), clip)
    dataset = build_dataset(config, list(unique.values()), load_log_mel(config))
    job = _Job(config, accelerator, dataset, dtype, report)
    job.folder = job.on_main(lambda: open_cache_folder(config, dtype))
    with ExitStack() as stack:
        job.on_main(lambda: stack.enter_context(alone_in(job.folder)))
        job.identities = job.on_main(lambda: _take_stock(job))
        store = _complete(job)
    gc.collect()  # the encoders
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()

    cache = FeatureCache(store, dict(zip(unique, job.identities, strict=True)))
    dataset.features = cache
    problems = [position for position, clip in enumerate(dataset.clips) if cache.has_problem(clip)]
    for position in problems:
        dataset[position]  # raises, unless such clips are to be skipped
    skipped = f", {len(problems)} of them without usable audio" if problems else ""
    job.report(f"feature cache {job.folder}: complete, {len(unique)} clips{skipped}")
    return cache


@dataclass
class _Job:
    """What the steps share."""

    config: Config
    accelerator: Accelerator
    dataset: AudioDataset  # one entry per audio
    dtype: torch.dtype
    reporter: Callable[[str], None]
    folder: Path = Path()
    identities: list[str] = field(default_factory=list)  # of the data set's clips

    def report(self, line: str) -> None:
        if self.accelerator.is_main_process:
            self.reporter(line)

    def on_main(self, compute: Callable[[], T]) -> T:
        """Compute in the main process; all get the result, or its `UserError`."""
        outcome: list[Any] = ["", None]
        if self.accelerator.is_main_process:
            try:
                outcome[1] = compute()
            except UserError as error:
                outcome[0] = str(error)
        message, value = broadcast_object_list(outcome)
        if message:
            raise UserError(message)
        return value

    def open_store(self) -> FeatureStore:
        sizes = read_encoder_sizes(self.config.model)
        frame_format = FrameFormat(self.dtype, sizes.speech_width, sizes.audio_width)
        return FeatureStore(self.folder, frame_format)

    def list_missing(self, store: FeatureStore) -> list[int]:
        return [i for i, identity in enumerate(self.identities) if identity not in store.rows]


def _take_stock(job: _Job) -> list[str]:
    remove_leftovers(job.folder)
    return identify_clips(job.dataset.clips, job.config.datasets.prefix)


def _complete(job: _Job) -> FeatureStore:
    """Check what is stored, encode what is not."""
    store = job.open_store()
    missing = job.list_missing(store)
    counts = gather_object([len(missing)])
    if len(set(counts)) > 1:
        raise UserError(
            f"datasets.feature_cache: {job.folder} is not the same folder for all processes (they "
            f"miss {counts} clips); give one that every machine shares"
        )
    is_checked = job.config.datasets.feature_cache_check
    if missing:
        job.on_main(lambda: _check_room(job, missing, store.format))
    if missing or (is_checked and job.accelerator.is_main_process):
        encoder = ClipEncoder(job.config.model, job.accelerator.device, job.dtype)
    else:
        encoder = None
    if is_checked:
        job.on_main(lambda: _check_sample(job, store, encoder))
    if encoder is not None and missing:
        _encode(job, missing, encoder, store)
        store = job.open_store()
        if job.list_missing(store):
            raise UserError(
                f"datasets.feature_cache: {job.folder} lacks clips that other processes stored; "
                "give a folder that every machine shares"
            )
    return store


def _check_room(job: _Job, missing: Sequence[int], frame_format: FrameFormat) -> None:
    """Report what will be stored, and raise where it does not fit."""
    num_bytes = estimate_bytes(job.config, [job.dataset.clips[i] for i in missing], frame_format)
    free_bytes = shutil.disk_usage(job.folder).free
    needed, free = describe_size(num_bytes), describe_size(free_bytes)
    if num_bytes * (1 + SPARE_DISK_SHARE) > free_bytes:
        raise UserError(
            f"datasets.feature_cache: {len(missing)} clips need about {needed}, and {job.folder} "
            f"has {free} free; give another folder, or store less with model.audio_tokens: "
            "length_aware"
        )
    job.report(
        f"feature cache {job.folder}: {len(missing)} of {len(job.dataset)} clips to encode, about "
        f"{needed} ({free} free)"
    )


def estimate_bytes(config: Config, clips: Sequence[Clip], frame_format: FrameFormat) -> int:
    """Size of the clips' outputs, by their lengths as annotated or in the files' headers."""
    seconds = torch.tensor(clip_seconds(clips, config.datasets.prefix))
    num_samples = (seconds.clamp(MIN_SECONDS, MAX_SECONDS) * SAMPLE_RATE_HZ).long()
    max_frames = read_encoder_sizes(config.model).max_frames
    plan = plan_frames(num_samples, max_frames, read_audio_options(config.model))
    num_patches = num_samples // SAMPLES_PER_FRAME  # eight for every 16 frames of 10 ms
    return frame_format.count_bytes(int(count_stored_frames(plan).sum()), int(num_patches.sum()))


def describe_size(num_bytes: float) -> str:
    """`1.5 GiB`, or `12.0 MiB` below one."""
    gib = num_bytes / 2**30
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{num_bytes / 2**20:,.1f} MiB"


def _check_sample(job: _Job, store: FeatureStore, encoder: ClipEncoder | None) -> None:
    """Encode one stored clip, drawn by the seed, and compare."""
    rows = [store.rows.get(identity, -1) for identity in job.identities]
    stored = [i for i, row in enumerate(rows) if row >= 0 and row not in store.problems]
    if not stored:
        return
    assert encoder is not None
    position = random.Random(job.config.run.seed).choice(stored)
    clip = job.dataset.clips[position]
    live = encoder.encode(job.dataset.read_audio(clip))
    difference = measure_difference(store.read(rows[position]), live)
    if difference > TOLERANCES[job.dtype]:
        raise UserError(
            f"datasets.feature_cache: what is stored of {clip.place} differs from what the "
            f"encoders give (by {difference:.2g} of its size, at most {TOLERANCES[job.dtype]:g} is "
            f"allowed); delete {job.folder}, and the next start computes it again"
        )


def _encode(job: _Job, missing: Sequence[int], encoder: ClipEncoder, store: FeatureStore) -> None:
    """Encode and store, a shard per process at a time. What goes wrong in one stops all."""
    accelerator = job.accelerator
    num_bytes = estimate_bytes(job.config, [job.dataset.clips[i] for i in missing], store.format)
    num_clips = min(
        SHARD_BYTES * len(missing) // max(num_bytes, 1),
        MAX_SHARD_CLIPS,
        -(-len(missing) // accelerator.num_processes),
    )
    num_clips = max(num_clips, 1)
    shards = [missing[start : start + num_clips] for start in range(0, len(missing), num_clips)]
    own = range(accelerator.process_index, len(shards), accelerator.num_processes)
    loader = DataLoader(
        AudioToEncode(job.dataset, [position for number in own for position in shards[number]]),
        batch_size=None,
        num_workers=job.config.run.num_workers,
        generator=torch.Generator().manual_seed(0),  # else it advances torch's global one
    )
    items = iter(loader)
    reported = time.monotonic()
    for first in range(0, len(shards), accelerator.num_processes):
        number = first + accelerator.process_index
        message = ""
        if number < len(shards):
            writer = ShardWriter(job.folder, store.last_number + 1 + number, store.format)
            try:
                _write_shard(job, writer, items, len(shards[number]), encoder)
            except UserError as error:
                message = str(error)
        messages = [text for text in gather_object([message]) if text]
        if messages:
            raise UserError(messages[0])
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            done = min((first + accelerator.num_processes) * num_clips, len(missing))
            job.report(f"feature cache: {done} of {len(missing)} clips encoded")


def _write_shard(
    job: _Job, writer: ShardWriter, items: Iterator[Any], num_clips: int, encoder: ClipEncoder
) -> None:
    for _ in range(num_clips):
        position, item = next(items)
        if isinstance(item, AudioError):
            job.dataset[position]  # raises, unless such clips are to be skipped
            writer.add_problem(job.identities[position], item)
        else:
            writer.add(job.identities[position], encoder.encode(item))
    writer.finish()
