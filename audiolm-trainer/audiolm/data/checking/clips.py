"""Look at one clip: its entry, its texts, every sample of its audio.

In: an annotation entry and the prefix. Out: `ClipFacts`. At most 30 s of a file are decoded, which
is all that the model is ever given of it.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from audiolm.audio.loading import (
    JOIN_SILENCE_SECONDS,
    MAX_SECONDS,
    MIN_SECONDS,
    WHOLE_FILE,
    AudioError,
    AudioSource,
    Span,
    read_frames,
)
from audiolm.data.checking.problems import (
    CLIPPED_FRACTION,
    CLIPPED_LEVEL,
    DURATION_SLACK_SECONDS,
    SILENT_PEAK,
    USUAL_RATES_HZ,
    ClipFacts,
    Problem,
)
from audiolm.data.checking.texts import find_text_problems
from audiolm.data.clips import Clip, find_problem, read_clip
from audiolm.data.shard_reading import ShardStore
from audiolm.errors import UserError


def inspect_entry(index: int, row: Any, prefix: str, store: ShardStore) -> ClipFacts:
    """Everything that can be told of an entry by itself; `store` reads what is in shards."""
    wrong = find_problem(row)
    if wrong is not None:
        return ClipFacts(index, (Problem("entry", wrong),))
    clip = read_clip(index, row)
    problems = list(find_text_problems(clip.texts, clip.task))
    try:
        pieces = [
            _inspect_file(source, WHOLE_FILE if number else clip.span)
            for number, source in enumerate(store.list_sources(clip, prefix))
        ]
    except AudioError as error:
        return ClipFacts(
            index, (*problems, Problem(error.problem, f"{error.path}: {error.reason}"))
        )
    except UserError as error:
        return ClipFacts(index, (*problems, Problem("prefix", str(error))))
    seconds = sum(piece.seconds for piece in pieces) + JOIN_SILENCE_SECONDS * (len(pieces) - 1)
    problems += _find_sample_problems(pieces)
    problems += _find_length_problems(clip, seconds)
    return ClipFacts(
        index,
        tuple(problems),
        fingerprint=_join_fingerprints(pieces),
        seconds=seconds,
        rate_hz=pieces[0].rate_hz,
        num_channels=pieces[0].num_channels,
    )


def compute_fingerprint(path: AudioSource, span: Span = WHOLE_FILE) -> int:
    """Hash of a clip's samples, the same for wav and flac; 0 for silence.

    Raises:
        AudioError: it cannot be read.
    """
    return _inspect_file(path, span).fingerprint


class _Piece:
    """One file's samples, reduced to what is asked of them."""

    def __init__(self, frames: np.ndarray, rate_hz: int, seconds: float) -> None:
        self.rate_hz, self.seconds = rate_hz, seconds
        self.num_channels = frames.shape[1]
        levels = np.abs(frames)
        self.peak = float(levels.max())
        self.clipped_fraction = float((levels >= CLIPPED_LEVEL).mean())
        # 16 bits, so that a wav file and its flac copy are the same.
        rounded = np.clip(np.round(frames * 32768), -32768, 32767).astype("<i2")
        about = f"{rate_hz}/{self.num_channels}/{seconds:.2f}/".encode()
        digest = hashlib.blake2b(about + rounded.tobytes(), digest_size=8).digest()
        is_silent = self.peak < SILENT_PEAK
        self.fingerprint = 0 if is_silent else int.from_bytes(digest, "little", signed=True)


def _inspect_file(path: AudioSource, span: Span) -> _Piece:
    frames, rate_hz, seconds = read_frames(path, span, MAX_SECONDS)
    if not np.isfinite(frames).all():
        raise AudioError(path, "non_finite", "it holds NaN or infinite samples")
    return _Piece(frames, rate_hz, seconds)


def _find_sample_problems(pieces: list[_Piece]) -> Iterator[Problem]:
    if all(piece.peak < SILENT_PEAK for piece in pieces):
        yield Problem("silent", f"peak {max(piece.peak for piece in pieces):.1e} of full scale")
    clipped = max(piece.clipped_fraction for piece in pieces)
    if clipped >= CLIPPED_FRACTION:
        yield Problem("clipped", f"{clipped:.1%} of the samples")
    rates = {piece.rate_hz for piece in pieces}
    for rate_hz in sorted(rates - {*USUAL_RATES_HZ}):
        yield Problem("rate", f"{rate_hz} Hz")
    num_channels = max(piece.num_channels for piece in pieces)
    if num_channels > 1:
        yield Problem("channels", f"{num_channels} channels")


def _find_length_problems(clip: Clip, seconds: float) -> Iterator[Problem]:
    if seconds < MIN_SECONDS:
        yield Problem("short", f"{seconds:.2f} s")
    if seconds > MAX_SECONDS:
        yield Problem("long", f"{seconds:.1f} s")
    if clip.seconds is not None and abs(clip.seconds - seconds) >= DURATION_SLACK_SECONDS:
        yield Problem("duration", f"annotated {clip.seconds:g} s, found {seconds:.2f} s")


def _join_fingerprints(pieces: list[_Piece]) -> int:
    if len(pieces) == 1:
        return pieces[0].fingerprint
    joined = " ".join(str(piece.fingerprint) for piece in pieces).encode()
    digest = hashlib.blake2b(joined, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
