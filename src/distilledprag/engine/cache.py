"""Keys and values of the rows that decode together, with room for the tokens to come.

transformers' own layer copies all of them at every step to append one column; this one writes the column.

B = rows, H = key-value heads, K = columns, D = head width. Knows nothing of rows, adapters or padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # columns


class RoomyLayer(DynamicLayer):
    """`keys` and `values` (B, H, K, D) may be replaced from outside between two calls."""

    _room: tuple[Tensor, Tensor] | None = None  # (B, H, more than K, D) each
    _within: Tensor | None = None  # the `keys` that lie in it; others have been put in their place when it is not `keys`

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.keys.numel() == 0:  # a prefill: most of these are put under other rows next
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        begin, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or self._within is not self.keys or end > self._room[0].shape[-2]:
            self._room = (_with_room(self.keys, end + ROOM), _with_room(self.values, end + ROOM))
        for room, fresh in zip(self._room, (key_states, value_states), strict=True):
            room[..., begin:end, :] = fresh
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        self._within = self.keys
        return self.keys, self.values


def roomy_cache() -> Cache:
    """An empty cache; a layer is made when the model first writes to it."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def _with_room(kept: Tensor, columns: int) -> Tensor:
    room = torch.empty(*kept.shape[:-2], columns, kept.shape[-1], dtype=kept.dtype, device=kept.device)
    room[..., : kept.shape[-2], :] = kept
    return room
