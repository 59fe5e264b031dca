"""How a batch is put together, and what is known of its clips before and after.

In: clips, items of `AudioDataset`, a sampler of `data.sampler`. Out: clip lengths, and the
`samples` dict that the model takes.

Shapes: B clips, M mel bins, T samples at 16 kHz of the longest clip.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from audiolm.audio.loading import JOIN_SILENCE_SECONDS, MAX_SECONDS, AudioError, audio_seconds
from audiolm.data.annotations import resolve_audio_path
from audiolm.data.clips import Clip, load_seconds
from audiolm.data.dataset import AudioDataset, SkippedClip
from audiolm.data.feature_cache import collate_features

NUM_HEADER_THREADS = 8
SPECTROGRAM_FRAMES = 3000
LIST_KEYS = (
    "text", "references", "task", "Q", "id", "testset_id", "index", "was_truncated", "draw_seed",
)  # fmt: skip


def clip_seconds(clips: Sequence[Clip], prefix: str | Path) -> np.ndarray:
    """Length (N,) of each clip in seconds: as annotated, else by its audio files' headers.

    A clip whose header cannot be read counts as 0 s: it is the data set's policy that decides
    about it, when it is loaded.
    """
    seconds = load_seconds(clips)
    unknown = np.flatnonzero(np.isnan(seconds))
    chosen = [clips[position] for position in unknown.tolist()]
    with ThreadPoolExecutor(NUM_HEADER_THREADS) as pool:
        unique = list(dict.fromkeys(chosen))
        measured = pool.map(lambda clip: _measure_seconds(clip, prefix), unique)
        by_clip = dict(zip(unique, measured, strict=True))
    seconds[unknown] = [by_clip[clip] for clip in chosen]
    return seconds


def _measure_seconds(clip: Clip, prefix: str | Path) -> float:
    if clip.stored is not None:
        return 0.0  # `shard` writes every length; fetching a shard to measure one is not worth it
    try:
        total = audio_seconds(resolve_audio_path(prefix, clip.path), clip.span)
        total += sum(audio_seconds(resolve_audio_path(prefix, path)) for path in clip.expand_wav)
    except AudioError:
        return 0.0
    return total + JOIN_SILENCE_SECONDS * len(clip.expand_wav)


def collate(items: Sequence[dict[str, Any] | SkippedClip]) -> dict[str, Any]:
    """Put items of `AudioDataset` together; clips that were skipped are listed, not replaced.

    Returns:
        `spectrogram` (B, M, 3000), `raw_wav` (B, T) zero-padded, `padding_mask` (B, T) True where
        padded, lists of B `text references task Q id testset_id index was_truncated draw_seed`,
        and `skipped`, a list of `SkippedClip`. B is 0 when every clip was skipped. Items with
        stored encoder outputs have those of `collate_features` instead of the first two.
    """
    kept = [item for item in items if not isinstance(item, SkippedClip)]
    skipped = [item for item in items if isinstance(item, SkippedClip)]
    if kept and "speech_frames" in kept[0]:
        lists = {key: [item[key] for item in kept] for key in LIST_KEYS}
        return {**collate_features(kept), **lists, "skipped": skipped}
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


def padding_share(samples: Mapping[str, Any]) -> float:
    """Share of a batch's samples that only fill shorter clips up to the longest; 0 if empty."""
    padding_mask = samples["padding_mask"]
    return float(padding_mask.float().mean()) if padding_mask.numel() else 0.0


def build_loader(
    dataset: AudioDataset, batch_sampler: Sampler[list[int]], num_workers: int
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
