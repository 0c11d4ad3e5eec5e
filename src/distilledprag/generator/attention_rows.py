"""Rows of A that start out as the base's own attention: for a token that a slot has read, the row whose product with a state
x is the attention score of x as query and that token as key, summed over heads.

    L = adapted layers   B = prompts   r = rank   D = hidden size   H = heads   d = head dimension

    A = (weights * (W_k n + b_k)) W_q / ||W_q W_k||   n: the token's normalised state; norm weights are folded into W_k, W_q

Rotary embeddings are left out: the pairs of dimensions that turn fast with the distance start with weight 0, the slow ones
with 1 (a row of A cannot know the distance). Only the weights are trained, for each slot its own; the matrices are the
base's and not part of a checkpoint. This module knows nothing of slots and how they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

READING = ("gate_proj", "up_proj", "q_proj", "k_proj", "v_proj")  # modules whose input is the normalised residual stream
WRITING = ("down_proj", "o_proj")  # modules whose output is added to it
STRENGTH = 1.2  # length of a row for a state without any structure
FAST = 0.25  # share of a head's rotary pairs that are left out, the fastest first


class AttentionRows(nn.Module):
    """For one target module: states (L, B, r, D) that slots have read -> rows of A (L, B, r, D).

    places: for each adapted layer its number and the number of the layer whose attention it takes.
    """

    keys: Tensor  # (L, D, H d)
    bias: Tensor  # (L, 1, 1, H d)
    queries: Tensor  # (L, H d, D)

    def __init__(self, model: Any, module: str, places: Sequence[tuple[int, int]], rank: int) -> None:
        super().__init__()
        made = [_projections(model, module, *place) for place in places]
        keys, biases, queries, slow = (torch.stack(parts).float() for parts in zip(*made, strict=True))
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("bias", biases[:, None, None], persistent=False)
        self.register_buffer("queries", queries, persistent=False)
        self.weights = nn.Parameter(slow[:, None, None].repeat(1, 1, rank, 1))  # (L, 1, r, H d)

    def forward(self, read: Tensor) -> Tensor:
        keys = torch.einsum("lbrd,ldh->lbrh", read, self.keys) + self.bias
        return torch.einsum("lbrh,lhd->lbrd", keys * self.weights, self.queries)


@torch.no_grad()
def _projections(model: Any, module: str, layer: int, look: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_k^T (D, H d), b_k (H d,), W_q (H d, D) and weights (H d,) for one layer, with norms and the scale folded in and keys
    repeated where heads share them."""
    config, own, looked = model.config, model.model.layers[layer], model.model.layers[look]
    attention, normed = looked.self_attn, looked.input_layernorm.weight
    behind = own.input_layernorm if module in ("q_proj", "k_proj", "v_proj") else own.post_attention_layernorm
    heads, size = config.num_attention_heads, attention.head_dim
    shared = heads // config.num_key_value_heads

    def spread(x: Tensor) -> Tensor:  # (H_kv d, ...) -> (H d, ...)
        return x.unflatten(0, (-1, size)).repeat_interleave(shared, dim=0).flatten(0, 1)

    keys = spread(attention.k_proj.weight * normed).T.contiguous()
    offset = attention.k_proj.bias
    bias = torch.zeros(heads * size, device=keys.device) if offset is None else spread(offset)
    queries = attention.q_proj.weight * normed / behind.weight.abs().clamp(min=1e-3).copysign(behind.weight)
    pairs = torch.arange(size // 2, device=keys.device) >= int(FAST * (size // 2))
    slow = torch.cat([pairs, pairs]).repeat(heads).to(keys.dtype)
    return keys, bias, queries * STRENGTH / (keys * slow @ queries).norm(), slow
