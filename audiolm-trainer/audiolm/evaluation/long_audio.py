"""What the model hears of each clip: the clip itself.

In: clips and their lengths. Out: pieces; each is loaded and decoded by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm.data.annotations import Clip


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


def cut_clips(clips: Sequence[Clip], seconds: Sequence[float]) -> list[Piece]:
    """One piece per clip."""
    pairs = zip(clips, seconds, strict=True)
    return [Piece(clip, clip.index, length) for clip, length in pairs]
