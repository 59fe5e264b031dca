"""Decode clips, batch by batch, into predictions.

In: a model, clips with their prompts, and options. Out: `Prediction`s, a batch at a time.

Each process takes every n-th clip of the list sorted by length, and decodes its clips in batches
of similar length. What a clip's answer is depends on none of this.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from audiolm.audio.features import LogMel
from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.config import DatasetsConfig, GenerateConfig
from audiolm.data.annotations import Clip
from audiolm.data.batches import build_loader
from audiolm.data.dataset import AudioDataset, SkippedClip
from audiolm.data.sampler import EvaluationBatchSampler
from audiolm.data.shard_reading import ShardStore, check_shards
from audiolm.evaluation.long_audio import Piece, cut_clips
from audiolm.evaluation.predictions import Prediction
from audiolm.models.decode import Answer, generate_answers
from audiolm.models.device import move_to
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.salmonn import SALMONN

# Worst last: the stop reason of a clip in pieces is the worst of its pieces'.
STOP_REASONS = ("end_token", "end_text", "max_new_tokens", "runaway", "looping")
_SEED_STEP = 1_000_003  # so that clips of neighbouring seeds do not share their draws


@dataclass(frozen=True)
class Decoder:
    """Everything that decoding needs besides the clips.

    Attributes:
        model: in eval mode, on `device`.
        log_mel: see `audio.features.LogMel`.
        datasets: the `datasets` section.
        generate: the `generate` section.
        device: where batches go.
        batch_size: clips, or pieces of clips, at once.
        num_workers: data loading processes.
        seed: of sampling.
    """

    model: SALMONN
    log_mel: LogMel
    datasets: DatasetsConfig
    generate: GenerateConfig
    device: torch.device
    batch_size: int
    num_workers: int
    seed: int

    def predict(
        self, clips: Sequence[Clip], seconds: Sequence[float], prompts: Mapping[int, str]
    ) -> Iterator[list[Prediction]]:
        """Decode clips; each batch yields the clips that it completed, skipped ones too.

        Args:
            clips: at least one; their `index` is what they are known by.
            seconds: length of each.
            prompts: templated prompt by a clip's index.
        """
        datasets = self.datasets
        pieces = cut_clips(clips, seconds, datasets.long_audio)
        shards = ShardStore(datasets.prefix, datasets.shard_url, datasets.shard_cache)
        check_shards(shards, clips, skips_bad=datasets.bad_audio == "skip")
        dataset = AudioDataset(
            [piece.clip for piece in pieces],
            datasets.prefix,
            self.log_mel,
            bad_audio=datasets.bad_audio,  # type: ignore[arg-type]
            # What was cut is short enough; what could not be measured is told when it is read.
            long_audio="truncate" if datasets.long_audio == "chunk" else datasets.long_audio,  # type: ignore[arg-type]
            shards=shards,
        )
        # what cannot be read comes first: a run that it stops, it stops at once
        lengths = [piece.seconds or math.inf for piece in pieces]
        sampler = EvaluationBatchSampler(lengths, self.batch_size)
        joiner = _Joiner(clips, pieces, prompts)
        by_piece = {piece.clip.index: piece for piece in pieces}
        prefixes = PrefixCache() if self.generate.prefix_cache else None
        for samples in build_loader(dataset, sampler, self.num_workers):
            for piece_index, part in self._decode(samples, by_piece, prompts, prefixes):
                joiner.add(by_piece[piece_index], part)
            yield joiner.take()

    def _decode(
        self,
        samples: dict[str, Any],
        by_piece: Mapping[int, Piece],
        prompts: Mapping[int, str],
        prefixes: PrefixCache | None,
    ) -> Iterator[tuple[int, Any]]:
        """Each piece of a batch with its answer, or with why it was skipped."""
        skipped: list[SkippedClip] = samples["skipped"]
        for clip in skipped:
            yield clip.index, clip.reason
        indices: list[int] = samples["index"]
        if not indices:
            return
        num_samples = (~samples["padding_mask"]).sum(1).tolist()
        audio_seconds = [length / SAMPLE_RATE_HZ for length in num_samples]
        started = time.perf_counter()
        with torch.no_grad():
            inputs = self.model.prepare(
                move_to(samples, self.device),
                [prompts[by_piece[index].clip_index] for index in indices],
            )
            answers = generate_answers(
                self.model.llm,
                self.model.llama_tokenizer,
                inputs,
                self.generate,
                self.model.text_options.end_text,
                audio_seconds=audio_seconds,
                seeds=[self.seed * _SEED_STEP + index for index in indices],
                prefixes=prefixes,
            )
        each = (time.perf_counter() - started) / len(indices)
        rows = zip(indices, answers, audio_seconds, samples["was_truncated"], strict=True)
        for index, answer, length, was_truncated in rows:
            yield index, _Part(answer, length, each, was_truncated)


@dataclass(frozen=True)
class _Part:
    """The answer to one piece of a clip."""

    answer: Answer
    audio_seconds: float
    seconds: float
    was_truncated: bool


class _Joiner:
    """Puts the pieces of each clip together, in their order."""

    def __init__(
        self, clips: Sequence[Clip], pieces: Sequence[Piece], prompts: Mapping[int, str]
    ) -> None:
        self._clips = {clip.index: clip for clip in clips}
        self._prompts = prompts
        self._parts: dict[int, dict[int, _Part | str]] = {}
        self._num_pieces: dict[int, int] = {}
        for piece in pieces:
            self._num_pieces[piece.clip_index] = self._num_pieces.get(piece.clip_index, 0) + 1

    def add(self, piece: Piece, part: _Part | str) -> None:
        """A piece's answer, or why it was skipped."""
        self._parts.setdefault(piece.clip_index, {})[piece.clip.index] = part

    def take(self) -> list[Prediction]:
        """The clips of which every piece is there, once."""
        complete = [
            index for index, parts in self._parts.items() if len(parts) == self._num_pieces[index]
        ]
        return [self._join(index, self._parts.pop(index)) for index in complete]

    def _join(self, index: int, parts: dict[int, _Part | str]) -> Prediction:
        clip = self._clips[index]
        bare = Prediction(
            clip.index, clip.path, clip.testset_id, clip.task, self._prompts[index], "",
            list(clip.texts), num_chunks=len(parts),
        )  # fmt: skip
        ordered = [parts[piece] for piece in sorted(parts)]
        reasons = [part for part in ordered if isinstance(part, str)]
        if reasons:
            return replace(bare, stop_reason="skipped", skipped=reasons[0])
        decoded = [part for part in ordered if isinstance(part, _Part)]
        answers = [part.answer for part in decoded]
        return replace(
            bare,
            text=" ".join(answer.text for answer in answers if answer.text),
            raw_text=" ".join(answer.raw_text for answer in answers),
            num_tokens=sum(answer.num_tokens for answer in answers),
            stop_reason=max((answer.stop_reason for answer in answers), key=STOP_REASONS.index),
            log_probability=round(sum(answer.log_probability for answer in answers), 6),
            audio_seconds=round(sum(part.audio_seconds for part in decoded), 3),
            seconds=round(sum(part.seconds for part in decoded), 4),
            was_truncated=any(part.was_truncated for part in decoded),
        )
