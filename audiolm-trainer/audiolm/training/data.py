"""Loaders for training and validation, as the configuration describes them."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch.utils.data import DataLoader

from audiolm.audio.augment import Augmenter, list_noise_files
from audiolm.audio.features import LogMel
from audiolm.audio.loading import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE_HZ
from audiolm.config import AugmentConfig, Config, DatasetsConfig
from audiolm.config_file import list_corpora
from audiolm.data.annotations import check_tasks, load_annotation
from audiolm.data.batches import AudioTally, build_loader, clip_seconds
from audiolm.data.clips import Clip, collect_tasks
from audiolm.data.dataset import AudioDataset, SkippedClip
from audiolm.data.feature_cache import FeatureCache
from audiolm.data.mixture import Mixture, load_mixture
from audiolm.data.sampler import (
    BatchPlan,
    EvaluationBatchSampler,
    StepBatchSampler,
    sort_longest_first,
)
from audiolm.data.shard_reading import ShardStore, check_shards
from audiolm.errors import UserError
from audiolm.models.audio_tokens import check_mel_bins
from audiolm.models.salmonn import SALMONN


def load_log_mel(config: Config) -> LogMel:
    """The extractor that `datasets.whisper_path`, or else `model.whisper_path`, asks for."""
    path = config.datasets.whisper_path or config.model.whisper_path
    return LogMel.from_pretrained(path, token=config.model.token or None)


def build_dataset(
    config: Config, clips: Sequence[Clip], log_mel: LogMel, *, is_train: bool = False
) -> AudioDataset:
    """The clips, read as `datasets` says; augmented in training."""
    datasets = config.datasets
    if datasets.long_audio == "chunk":
        raise UserError(
            "datasets.long_audio: chunk is for evaluation; train with truncate, error or skip"
        )
    shards = ShardStore(datasets.prefix, datasets.shard_url, datasets.shard_cache)
    check_shards(shards, clips, skips_bad=datasets.bad_audio == "skip")
    return AudioDataset(
        clips,
        datasets.prefix,
        log_mel,
        bad_audio=datasets.bad_audio,  # type: ignore[arg-type]
        long_audio=datasets.long_audio,  # type: ignore[arg-type]
        seed=config.run.seed,
        augmenter=build_augmenter(datasets.augment) if is_train else None,
        shards=shards,
    )


def build_augmenter(augment: AugmentConfig) -> Augmenter | None:
    """What `datasets.augment` asks for; None where all of it is off."""
    masks = augment.specaugment
    has_masks = masks.num_time_masks or masks.num_frequency_masks
    if not (augment.speed or augment.noise_snr_db or augment.gain_db or has_masks):
        return None
    mixes_files = augment.noise_dir and augment.noise_snr_db
    noise_paths: list[Path] = list_noise_files(augment.noise_dir) if mixes_files else []
    return Augmenter(
        speed=augment.speed,
        noise_snr_db=augment.noise_snr_db,
        noise_share=augment.noise_share,
        noise_colour=augment.noise_colour,  # type: ignore[arg-type]
        noise_paths=noise_paths,
        gain_db=augment.gain_db,
        num_time_masks=masks.num_time_masks,
        max_mask_seconds=masks.max_mask_seconds,
        max_mask_share=masks.max_mask_share,
        num_frequency_masks=masks.num_frequency_masks,
        max_mask_bins=masks.max_mask_bins,
    )


class ClipBatches:
    """Micro-batches of one process. Training has passes without end, each in its own order, and
    counts optimiser steps; validation has one pass, each clip once.

    Args:
        config: the whole configuration.
        annotation: `datasets.train_ann_path` in one of its forms, or one validation file.
        accelerator: knows this process and how many there are.
        plan: how training steps are split; None: validation.
        max_clips: of validation, spread evenly over the annotation; 0: all.

    Attributes:
        plan: as given.
        source: the annotation, as it is named in messages.
        mixture: of training.
        num_mel_bins: of the log-mel.
        tally: what became of the clips so far.
        tasks: all there are.
    """

    def __init__(
        self,
        config: Config,
        annotation: Any,
        accelerator: Accelerator,
        plan: BatchPlan | None = None,
        *,
        max_clips: int = 0,
    ) -> None:
        self._seed = config.run.seed
        self._datasets = config.datasets
        self.source = ", ".join(path for path, _ in list_corpora(annotation))
        self.mixture: Mixture | None = None
        if plan is None:
            clips: Sequence[Clip] = load_annotation(annotation, require_text=True)
            clips = pick_evenly(clips, max_clips or len(clips))
        else:
            temperature = config.datasets.task_temperature
            corpora = list_corpora(annotation)
            self.mixture = load_mixture(corpora, seed=self._seed, task_temperature=temperature)
            clips = self.mixture.clips
        log_mel = load_log_mel(config)
        self.num_mel_bins = log_mel.num_mel_bins
        self._dataset = build_dataset(config, clips, log_mel, is_train=plan is not None)
        self.plan = plan
        self._sampler: StepBatchSampler | EvaluationBatchSampler
        if plan is None or self.mixture is None:
            self._sampler = _build_validation_sampler(config, clips, accelerator)
        else:
            self._sampler = _build_training_sampler(config, self.mixture, accelerator, plan)
        self._loader: DataLoader[Any] = build_loader(
            self._dataset, self._sampler, config.run.num_workers
        )
        self.tally = AudioTally()
        self.tasks = collect_tasks(clips)

    def one_pass(self, number: int, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """This process's micro-batches of pass `number`; in training from a step of it on.

        A training batch also holds `step_seed`, the text seed/pass/step.
        """
        self._dataset.set_epoch(number)
        if isinstance(self._sampler, StepBatchSampler):
            self._sampler.set_epoch(number)
            self._sampler.set_start(start_step)
        for position, samples in enumerate(self._loader):
            self.tally.add(samples)
            if self.plan is not None:
                step = start_step + position // self.plan.num_micro_batches
                samples["step_seed"] = f"{self._seed}/{number}/{step}"
            yield samples

    def endless(self, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """Pass after pass, from optimiser step `start_step` of the whole run on.

        `plan.num_micro_batches` of them are one step. Nothing before the start is loaded.
        """
        number, start = self._steps.locate(start_step)
        while True:
            yield from self.one_pass(number, start)
            number, start = number + 1, 0

    @property
    def clips(self) -> Sequence[Clip]:
        """Every clip that may come."""
        return self._dataset.clips

    def use_features(self, features: FeatureCache | None) -> None:
        """Give stored encoder outputs instead of audio, from the next pass on."""
        self._dataset.features = features

    @property
    def steps_per_pass(self) -> int:
        """Optimiser steps in the first pass; with `batch_seconds` or weights others may differ."""
        return self._steps.num_steps(0)

    def count_steps(self, num_passes: int) -> int:
        """Optimiser steps in the first `num_passes` passes: the same on every process."""
        return sum(self._steps.num_steps(number) for number in range(num_passes))

    def load_waveform(self, index: int) -> np.ndarray:
        """The sound (T,) at 16 kHz of the clip at `index` of the annotation, unaugmented."""
        position = next(i for i, clip in enumerate(self._dataset.clips) if clip.index == index)
        return self._dataset.load_waveform(position)

    def load_longest(self) -> tuple[dict[str, Any], float]:
        """The item of the longest clip that can be used, drawn out as far as augmentation may, and
        its length in seconds.

        Raises:
            UserError: no clip can be used.
        """
        seconds = measure_model_seconds(self._datasets, self.clips)
        for position in sort_longest_first(np.arange(len(seconds)), seconds):
            item = self._dataset[int(position)]
            if isinstance(item, SkippedClip):
                continue
            length = float(seconds[position])
            if "raw_wav" in item:
                num_samples = round(length * SAMPLE_RATE_HZ)
                num_rounds = -(-num_samples // len(item["raw_wav"]))
                item["raw_wav"] = item["raw_wav"].repeat(num_rounds)[:num_samples]
            return item, length
        raise UserError(
            "datasets.train_ann_path: none of its clips can be used; see datasets.prefix"
        )

    @property
    def _steps(self) -> StepBatchSampler:
        assert isinstance(self._sampler, StepBatchSampler), "validation has no steps"
        return self._sampler


def pick_evenly(clips: Sequence[Clip], num_clips: int) -> Sequence[Clip]:
    """At most `num_clips`, the same ones each time: equal shares of each task, evenly spread."""
    if num_clips >= len(clips):
        return clips
    by_task: dict[str, list[Clip]] = {}
    for clip in clips:
        by_task.setdefault(clip.task, []).append(clip)
    turns = itertools.zip_longest(*(_spread(found) for found in by_task.values()))
    picked = [clip for turn in turns for clip in turn if clip is not None][:num_clips]
    return sorted(picked, key=lambda clip: clip.index)


def _spread(clips: Sequence[Clip]) -> list[Clip]:
    """The clips in an order whose every beginning is spread evenly: first, middle, quarters, ..."""
    steps = len(clips).bit_length()
    order = sorted(range(2**steps), key=lambda n: int(f"{n:0{steps}b}"[::-1], 2))
    return [clips[position] for position in order if position < len(clips)]


def measure_model_seconds(datasets: DatasetsConfig, clips: Sequence[Clip]) -> np.ndarray:
    """Length of each training clip as the model gets it: slowed down at most, padded or cut."""
    slowest = min([1.0, *datasets.augment.speed])
    lengths = clip_seconds(clips, datasets.prefix)
    return np.clip(lengths / slowest, MIN_SECONDS, MAX_SECONDS)


def _build_training_sampler(
    config: Config, mixture: Mixture, accelerator: Accelerator, plan: BatchPlan
) -> StepBatchSampler:
    datasets, run = config.datasets, config.run
    groups = datasets.group_by_length or run.batch_seconds > 0
    seconds = np.zeros(len(mixture.clips), dtype=np.float32)
    if groups:
        seconds = measure_model_seconds(datasets, mixture.clips)
    return StepBatchSampler(
        seconds,
        step_size=plan.clips_per_step,
        num_micro_batches=plan.num_micro_batches,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        seed=run.seed,
        share_seconds=run.batch_seconds,
        num_shares=max(plan.clips_per_step // run.batch_size_train, 1),
        group_by_length=groups,
        choose_clips=mixture.positions,
    )


def _build_validation_sampler(
    config: Config, clips: Sequence[Clip], accelerator: Accelerator
) -> EvaluationBatchSampler:
    groups = config.datasets.group_by_length
    return EvaluationBatchSampler(
        clip_seconds(clips, config.datasets.prefix) if groups else np.zeros(len(clips)),
        config.run.batch_size_eval,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        group_by_length=groups,
    )


def check_data(model: SALMONN, data: ClipBatches) -> None:
    """Find out before the first step what would stop the run at some later clip.

    Raises:
        UserError: a task without a prompt, or mel bins that this Whisper does not read.
    """
    assert model.prompts is not None
    check_tasks(data.source, data.clips, model.prompts)
    check_mel_bins(data.num_mel_bins, model.encoder_sizes.num_mel_bins)
