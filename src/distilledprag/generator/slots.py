"""The slots' network: slots read the document tokens and each other. Every adapted layer has its own weights, stacked.

L = adapted layers   K = slots of a layer (modules x rank)   W = width   D = base hidden size
B = prompts          S = document tokens                     H = attention heads
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def matrices(count: int, d_in: int, d_out: int, gain: float = 1.0) -> nn.Parameter:
    """`count` linear maps, stacked (count, d_in, d_out); gain 0 makes them zero."""
    return nn.Parameter(torch.randn(count, d_in, d_out) * gain / math.sqrt(d_in))


def apply(x: Tensor, matrices: Tensor) -> Tensor:
    """x (L, B, X, d_in) through the matrices (L, d_in, d_out) of its layers."""
    return (x.flatten(1, 2) @ matrices).unflatten(1, x.shape[1:3])


class SlotBlock(nn.Module):
    """Cross-attention from slots to document tokens, attention among a module's slots, feed-forward; weights per layer."""

    def __init__(self, layers: int, modules: int, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.groups = heads, modules
        self.query, self.key, self.value, self.out = (matrices(layers, d_in, width) for d_in in (width, hidden, hidden, width))
        for matrix in (*self.value.data, *self.out.data):
            nn.init.orthogonal_(matrix)
        self.slot_qkv, self.slot_out = matrices(layers, width, 3 * width), matrices(layers, width, width, gain=0.0)
        self.up, self.down = matrices(layers, width, 2 * width), matrices(layers, 2 * width, width, gain=0.0)

    def matrix_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def _split(self, x: Tensor) -> Tensor:
        """(L, B, X, W) -> (L B, H, X, W / H)."""
        return x.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attention(self, latents: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """(L, B, K, S): the weights of the cross-attention, mean over heads."""
        query, key = self._split(apply(_normal(latents), self.query)), self._split(apply(keys, self.key))
        scores = (query @ key.mT / math.sqrt(query.size(-1))).unflatten(0, latents.shape[:2])  # (L, B, H, K, S)
        return (scores + bias[:, None]).softmax(-1).mean(2)

    def _attend(self, latents: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (self._split(x) for x in (latents, keys, values))
        bias = bias[:, None].repeat(latents.size(0), 1, 1, 1)  # (L B, 1, K, S)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return read.transpose(1, 2).flatten(2).unflatten(0, latents.shape[:2])

    def _attend_slots(self, latents: Tensor) -> Tensor:
        """(L, B, K, 3 W) queries, keys and values -> (L, B, K, W): each slot attends to those of its module."""
        parts = latents.unflatten(2, (self.groups, -1)).flatten(1, 2)  # (L, B modules, r, 3 W)
        query, key, value = (self._split(x) for x in parts.chunk(3, dim=-1))
        read = functional.scaled_dot_product_attention(query, key, value)
        return read.transpose(1, 2).flatten(2).unflatten(0, (*latents.shape[:2], self.groups)).flatten(2, 3)

    def forward(self, latents: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """latents (L, B, K, W); keys, values (L, B, S, D); bias (B, K, S) added to scores. Returns the new latents."""
        read = self._attend(apply(_normal(latents), self.query), apply(keys, self.key), apply(values, self.value), bias)
        latents = latents + apply(read, self.out)
        latents = latents + apply(self._attend_slots(apply(_normal(latents), self.slot_qkv)), self.slot_out)
        return latents + apply(functional.gelu(apply(_normal(latents), self.up)), self.down)


def _normal(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
