"""Loaders for training and validation, as the configuration describes them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from audiolm.audio.features import LogMel
from audiolm.config import Config
from audiolm.data.annotations import Clip, load_annotation
from audiolm.data.batches import AudioTally, LengthGroupedBatchSampler, build_loader, clip_seconds
from audiolm.data.dataset import AudioDataset
from audiolm.models.audio_tokens import check_mel_bins
from audiolm.models.salmonn import SALMONN


def load_log_mel(config: Config) -> LogMel:
    """The extractor that `datasets.whisper_path`, or else `model.whisper_path`, asks for."""
    path = config.datasets.whisper_path or config.model.whisper_path
    return LogMel.from_pretrained(path, token=config.model.token or None)


def build_dataset(config: Config, clips: Sequence[Clip], log_mel: LogMel) -> AudioDataset:
    """The clips, read as `datasets` says."""
    datasets = config.datasets
    return AudioDataset(
        clips,
        datasets.prefix,
        log_mel,
        bad_audio=datasets.bad_audio,  # type: ignore[arg-type]
        long_audio=datasets.long_audio,  # type: ignore[arg-type]
        seed=config.run.seed,
    )


class ClipBatches:
    """Batches of one annotation for one process; each pass over them has its own order."""

    def __init__(
        self, config: Config, annotation_path: str, accelerator: Accelerator, *, is_train: bool
    ) -> None:
        datasets, run = config.datasets, config.run
        clips = load_annotation(annotation_path, require_text=True)
        log_mel = load_log_mel(config)
        self.num_mel_bins = log_mel.num_mel_bins
        self._dataset = build_dataset(config, clips, log_mel)
        seconds = (
            clip_seconds(clips, datasets.prefix) if datasets.group_by_length else [0.0] * len(clips)
        )
        self._sampler = LengthGroupedBatchSampler(
            seconds,
            run.batch_size_train if is_train else run.batch_size_eval,
            seed=run.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            shuffle=is_train,
            group_by_length=datasets.group_by_length,
        )
        self._loader: DataLoader[Any] = build_loader(self._dataset, self._sampler, run.num_workers)
        self.tally = AudioTally()
        self.tasks = {clip.task for clip in clips}

    def __len__(self) -> int:
        """Batches in one pass, for this process."""
        return len(self._sampler)

    def one_pass(self, number: int) -> Iterator[dict[str, Any]]:
        """Every clip of this process once, in the order of pass `number`."""
        self._dataset.set_epoch(number)
        self._sampler.set_epoch(number)
        for samples in self._loader:
            self.tally.add(samples)
            yield samples

    def endless(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Pass after pass, from batch `start` of the whole run on."""
        number, skipped = divmod(start, len(self))
        while True:
            yield from itertools.islice(self.one_pass(number), skipped, None)
            number, skipped = number + 1, 0


def check_data(model: SALMONN, data: ClipBatches) -> None:
    """Find out before the first step what would stop the run at some later clip.

    Raises:
        UserError: a task without a prompt, or mel bins that this Whisper does not read.
    """
    assert model.prompts is not None
    for task in sorted(data.tasks):
        model.prompts.choices(task)
    check_mel_bins(data.num_mel_bins, model.speech_encoder.config.num_mel_bins)
