"""Keys and values of the positions an LLM has read, in memory that is reserved once.

transformers' own cache joins old and new into a new array at every token. This one writes the new
ones behind the old, and hands out exactly the part that is filled. Layers of other kinds (sliding
windows, linear attention) stay transformers' own.

Letters: B rows, K key heads, S positions, D head width.
"""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

POSITIONS_PER_BUCKET = 64  # room comes in steps of so many positions


class ReservedLayer(DynamicLayer):
    """Keys and values (B, K, S, D) of one layer, with room for `num_positions` before it grows."""

    def __init__(self, num_positions: int) -> None:
        super().__init__()
        self._num_reserved = round_up(num_positions)
        self._num_filled = 0
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new keys and values (B, K, n, D); returns all of them, without a copy."""
        start, end = self._num_filled, self._num_filled + key_states.shape[-2]
        if self._room is None or end > self._num_reserved:
            self._reserve(key_states, value_states, end)
        keys, values = self._fill(end)
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def make_room(self, num_new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole memory (B, K, R, D) for keys and values, of a layer that holds some already,
        with room for more; whoever writes them there says so by `count`."""
        end = self._num_filled + num_new
        if end > self._num_reserved:
            assert isinstance(self.keys, torch.Tensor)
            assert isinstance(self.values, torch.Tensor)
            self._reserve(self.keys, self.values, end)
        assert self._room is not None
        return self._room

    def count(self, num_new: int) -> None:
        """So many positions were written behind the others."""
        self._fill(self._num_filled + num_new)

    def _fill(self, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._room is not None
        keys, values = (room[:, :, :num_positions] for room in self._room)
        self.keys, self.values, self._num_filled = keys, values, num_positions
        return keys, values

    def _reserve(self, keys: torch.Tensor, values: torch.Tensor, num_positions: int) -> None:
        self._num_reserved = max(self._num_reserved, round_up(num_positions))
        rooms = []
        for states, filled in ((keys, self.keys), (values, self.values)):
            shape = (*states.shape[:2], self._num_reserved, states.shape[-1])
            room = states.new_zeros(shape)  # a mask may hide what is not filled: no NaN
            if self._num_filled:
                assert isinstance(filled, torch.Tensor)
                room[:, :, : self._num_filled] = filled
            rooms.append(room)
        self._room = (rooms[0], rooms[1])
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


def build_cache(config: Any, num_positions: int) -> DynamicCache:
    """An empty cache of an LLM, with room for so many positions."""
    cache = DynamicCache(config=config)
    cache.layers = [
        ReservedLayer(num_positions) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


def sees_every_position(cache: DynamicCache) -> bool:
    """Whether every layer attends to all positions there are; False with sliding windows."""
    return bool(cache.layers) and all(isinstance(layer, ReservedLayer) for layer in cache.layers)


def round_up(num_positions: int) -> int:
    """The next whole number of buckets."""
    return -(-num_positions // POSITIONS_PER_BUCKET) * POSITIONS_PER_BUCKET
