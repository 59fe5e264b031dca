"""Stored outputs of the frozen encoders, in place of audio.

In: clips, and the shards of a cache folder (`data.feature_shards`). Out: what `AudioDataset` and
`collate` give the model instead of spectrograms and waveforms. A clip is known by its files' paths,
sizes and modification times, so that nothing is read that was made of other audio.

Shapes: B clips, T Whisper frames of width C, P BEATs patches of width D.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from audiolm.data.annotations import Clip, resolve_audio_path
from audiolm.data.feature_shards import FeatureStore
from audiolm.errors import UserError

NUM_STAT_THREADS = 8


def identify_clips(clips: Sequence[Clip], prefix: str | Path) -> list[str]:
    """What each clip's audio is: a digest of its files' paths, sizes and modification times.

    Raises:
        UserError: a path that leads out of the prefix.
    """
    with ThreadPoolExecutor(NUM_STAT_THREADS) as pool:
        return list(pool.map(lambda clip: _identify(clip, prefix), clips))


def _identify(clip: Clip, prefix: str | Path) -> str:
    files: list[list[Any]] = []
    if clip.offset is not None:
        files.append([clip.offset, clip.seconds])
    if clip.stored is not None:
        files.append([*clip.stored])
    for name in (clip.stored.shard if clip.stored else clip.path, *clip.expand_wav):
        try:
            path = os.path.abspath(resolve_audio_path(prefix, name))
        except UserError as error:
            raise UserError(f"{clip.place}: {error}") from error
        try:
            status = os.stat(path)
            files.append([path, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([path, None, None])  # if it comes back, it is another clip
    return hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()


def name_audio(clip: Clip) -> tuple[str, ...]:
    """The clip's audio as its annotation writes it; entries that share it are stored once."""
    return (clip.name, *clip.expand_wav)


class FeatureCache:
    """The stored outputs of a run's clips, for `AudioDataset`.

    Args:
        store: holds all of `identities`.
        identities: by `name_audio`.
    """

    def __init__(self, store: FeatureStore, identities: Mapping[tuple[str, ...], str]) -> None:
        self._store = store
        self._rows = {name: store.rows[identity] for name, identity in identities.items()}
        store.rows = {}  # no longer needed

    def load(self, clip: Clip) -> dict[str, Any]:
        """`speech_frames` (T, C), `audio_frames` (P, D) with BEATs, `num_samples`, `was_truncated`.

        Raises:
            AudioError: the clip's audio cannot be used.
        """
        return self._store.read(self._rows[name_audio(clip)])

    def has_problem(self, clip: Clip) -> bool:
        """Whether the clip's audio cannot be used."""
        return self._rows[name_audio(clip)] in self._store.problems


def collate_features(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pad stored outputs to a batch.

    Returns:
        `speech_frames` (B, T, C), with BEATs `audio_frames` (B, P, D) and `num_audio_frames` (B,),
        and `padding_mask` (B, samples) True where the audio they were made of would be padded.
    """
    lengths = torch.tensor([item["num_samples"] for item in items])
    samples = {
        "speech_frames": pad_sequence([item["speech_frames"] for item in items], batch_first=True),
        "padding_mask": torch.arange(int(lengths.max())) >= lengths[:, None],
    }
    if "audio_frames" in items[0]:
        frames = [item["audio_frames"] for item in items]
        samples["audio_frames"] = pad_sequence(frames, batch_first=True)
        samples["num_audio_frames"] = torch.tensor([len(patches) for patches in frames])
    return samples
