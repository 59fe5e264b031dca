"""Clips over 30 s, cut into pieces that the model can hear (`datasets.long_audio: chunk`).

In: clips and their lengths. Out: pieces; each is a clip of its own, of equal length within one
clip. A word at a border may be cut in two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from audiolm.audio.loading import MAX_SECONDS
from audiolm.data.annotations import Clip
from audiolm.errors import UserError


@dataclass(frozen=True)
class Piece:
    """A clip, or a part of one.

    Attributes:
        clip: what is loaded; its `index` is its own, that of the clip for the first piece.
        clip_index: the index of the clip it belongs to.
        seconds: its length.
    """

    clip: Clip
    clip_index: int
    seconds: float


def cut_clips(clips: Sequence[Clip], seconds: Sequence[float], long_audio: str) -> list[Piece]:
    """One piece per clip, or with `chunk` as many of at most 30 s as it takes.

    Raises:
        UserError: a clip joined of several files is longer than 30 s, which cannot be cut.
    """
    stride = max(clip.index for clip in clips) + 1
    pieces = []
    for clip, length in zip(clips, seconds, strict=True):
        num_pieces = math.ceil(length / MAX_SECONDS) if long_audio == "chunk" else 1
        if num_pieces < 2:
            pieces.append(Piece(clip, clip.index, length))
            continue
        if clip.expand_wav:
            raise UserError(
                f"annotation[{clip.index}] ({clip.path}) is {length:.1f} s long and joined of "
                "several files, which datasets.long_audio: chunk cannot cut; use truncate"
            )
        start, each = clip.offset or 0.0, length / num_pieces
        for number in range(num_pieces):
            part = replace(
                clip,
                index=clip.index + number * stride,
                offset=start + number * each,
                seconds=each,
            )
            pieces.append(Piece(part, clip.index, each))
    return pieces
