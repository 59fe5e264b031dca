"""One clip at a time: from an annotation entry to what the model reads.

In: clips of an annotation, the folder their paths start from, and a log-mel extractor. Out: an
item per clip, or `SkippedClip` where the policy says so; another clip never takes its place.

Shapes: M mel bins, T samples at 16 kHz.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from audiolm.audio.augment import Augmenter, build_generator
from audiolm.audio.loading import AudioError, LongAudioPolicy, Waveform, load_waveform
from audiolm.data.annotations import Clip
from audiolm.data.shard_reading import ShardStore
from audiolm.errors import UserError

BadAudioPolicy = Literal["error", "skip"]


@dataclass(frozen=True)
class SkippedClip:
    """A clip left out: its position in the annotation, its path there, and why."""

    index: int
    id: str
    reason: str


class ClipError(UserError):
    """A clip that stops the run.

    A data loading process hands its exception over as the text of a traceback, out of which the
    main process builds the same type again: only the message behind the type's name is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.ClipError: ")[2].strip())


class StoredFeatures(Protocol):
    """Encoder outputs in place of audio: `data.feature_cache.FeatureCache`."""

    def load(self, clip: Clip) -> dict[str, Any]:
        """What `AudioDataset.read_audio` returns for the clip, `num_samples` included."""
        ...


class AudioDataset(Dataset[dict[str, Any] | SkippedClip]):
    """Clips with their audio loaded.

    Args:
        clips: entries of an annotation.
        prefix: folder that the clips' paths are joined to.
        log_mel: (T,) float32 waveform -> (M, 3000) log-mel; see `audio.features.LogMel`.
        bad_audio: "error" raises on a clip that cannot be read; "skip" returns `SkippedClip`.
        long_audio: clips over 30 s: "truncate" keeps their start, "error" raises, "skip" leaves
            them out.
        seed: of what is drawn for a clip in an epoch: one of several reference texts, its
            augmentation, and (by the item's `draw_seed`) its prompt.
        augmenter: changes the audio of training clips.
        shards: reads clips that are in shards; None: from below the prefix.

    Attributes:
        features: when set, items hold the clips' stored encoder outputs instead of audio.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        prefix: str | Path,
        log_mel: Callable[[np.ndarray], torch.Tensor],
        *,
        bad_audio: BadAudioPolicy = "error",
        long_audio: LongAudioPolicy = "truncate",
        seed: int = 0,
        augmenter: Augmenter | None = None,
        shards: ShardStore | None = None,
    ) -> None:
        self.clips = clips
        self._prefix = prefix
        self._log_mel = log_mel
        self._skips_bad = bad_audio == "skip"
        self._long_audio: LongAudioPolicy = long_audio
        self._seed = seed
        self._augmenter = augmenter
        self.features: StoredFeatures | None = None
        self._shards = shards or ShardStore(prefix)
        # In shared memory, so that loading processes that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws come next."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any] | SkippedClip:
        """The clip's item: `spectrogram` (M, 3000) and `raw_wav` (T,) float32, `was_truncated`,
        `text`, `references`, `task`, `Q`, `id`, `testset_id`, `index` of its entry, and
        `draw_seed`, the text `seed/epoch/position` that all its random draws start from.

        Raises:
            ClipError: its audio cannot be used and the policy is "error"; or the noise to mix in
                cannot be read.
        """
        clip = self.clips[index]
        draw_seed = f"{self._seed}/{self._epoch.item()}/{index}"
        try:
            audio = self.read_audio(clip, draw_seed)
        except AudioError as error:
            is_too_long = error.problem == "too_long"
            if self._long_audio == "skip" if is_too_long else self._skips_bad:
                return SkippedClip(clip.index, clip.name, str(error))
            option = "long_audio" if is_too_long else "bad_audio"
            fix = f"; datasets.{option}: skip leaves such clips out"
            raise ClipError(f"{clip.place}: {error}{fix}") from error
        except UserError as error:
            raise ClipError(f"{clip.place}: {error}") from error
        return {
            **audio,
            "text": _draw_text(clip, draw_seed),
            "references": list(clip.texts),
            "task": clip.task,
            "Q": clip.question,
            "id": clip.name,
            "testset_id": clip.testset_id,
            "index": clip.index,
            "draw_seed": draw_seed,
        }

    def load_waveform(self, position: int) -> np.ndarray:
        """The sound (T,) of a clip as the model hears it, without augmentation.

        Raises:
            AudioError: it cannot be used.
        """
        return self._load(self.clips[position]).samples

    def read_audio(self, clip: Clip, draw_seed: str = "") -> dict[str, Any]:
        """`spectrogram` (M, 3000), `raw_wav` (T,) and `was_truncated`, or what `features` holds.

        Raises:
            AudioError: the audio cannot be used.
        """
        if self.features is not None:
            return self.features.load(clip)
        waveform = self._load(clip)
        samples, log_mel = self._make_features(waveform.samples, draw_seed)
        return {
            "spectrogram": log_mel,
            "raw_wav": torch.from_numpy(samples),
            "was_truncated": waveform.was_truncated,
        }

    def _load(self, clip: Clip) -> Waveform:
        source, *extra = self._shards.list_sources(clip, self._prefix)
        return load_waveform(source, long_audio=self._long_audio, extra_paths=extra, span=clip.span)

    def _make_features(
        self, samples: np.ndarray, draw_seed: str
    ) -> tuple[np.ndarray, torch.Tensor]:
        """The waveform (T,) and its log-mel (M, 3000), augmented if this data set is."""
        if self._augmenter is None:
            return samples, self._log_mel(samples)
        generator = build_generator(f"augment/{draw_seed}")
        samples = self._augmenter.change_waveform(samples, generator)
        log_mel = self._log_mel(samples)
        return samples, self._augmenter.mask_log_mel(log_mel, len(samples), generator)


def _draw_text(clip: Clip, draw_seed: str) -> str:
    """One of the reference texts, by (seed, epoch, position): the same in every process."""
    if len(clip.texts) < 2:
        return clip.texts[0] if clip.texts else ""
    return random.Random(draw_seed).choice(clip.texts)
