"""A base's attention as linear maps of one token's state: what a query must look like to find the token, and what finding it
writes. Summed over heads, without rotary embeddings.

    D = hidden size   H = heads   d = head dimension   n: a token's normalised state (before the norm's weight)

    key map      n -> W_q^T diag(slow) (W_k n + b_k)     its product with a normalised query state x is the attention score
    value map    n -> W_o (W_v n + b_v)                  what attention adds to the query's state when it reads this token only

Norm weights are folded in. The pairs of rotary dimensions that turn fast with the distance are left out, the others are taken
as if the distance were zero: a row of an adapter cannot know it. This module knows nothing of adapters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FAST = 0.25  # share of a head's rotary pairs that are left out, the fastest first


@torch.no_grad()
def key_map(model: Any, look: int, layer: int) -> tuple[Tensor, Tensor]:
    """Matrix (D, D) and offset (D,), applied as `n @ matrix + offset`, of layer `look`'s attention, for queries x that are the
    input of the MLP of layer `layer` (norm weight included)."""
    looked, read = model.model.layers[look], model.model.layers[layer].post_attention_layernorm.weight.float()
    attention, normed = looked.self_attn, looked.input_layernorm.weight.float()
    heads, size = model.config.num_attention_heads, attention.head_dim
    pairs = torch.arange(size // 2, device=normed.device) >= int(FAST * (size // 2))
    slow = torch.cat([pairs, pairs]).repeat(heads).float()
    keys = _spread(attention.k_proj.weight.float() * normed, model, size)  # (H d, D)
    bias = attention.k_proj.bias
    queries = attention.q_proj.weight.float() * normed / read.abs().clamp(min=1e-3).copysign(read)  # (H d, D)
    queries = slow[:, None] * queries / size**0.5
    offset = queries.new_zeros(queries.size(1)) if bias is None else _spread(bias.float(), model, size) @ queries
    return keys.T @ queries, offset


@torch.no_grad()
def value_map(model: Any, look: int) -> tuple[Tensor, Tensor]:
    """Matrix (D, D) and offset (D,), applied as `n @ matrix + offset`, of what layer `look`'s attention writes."""
    looked = model.model.layers[look]
    attention, normed = looked.self_attn, looked.input_layernorm.weight.float()
    out, bias = attention.o_proj.weight.float(), attention.v_proj.bias
    values = _spread(attention.v_proj.weight.float() * normed, model, attention.head_dim)
    offset = out.new_zeros(out.size(0)) if bias is None else out @ _spread(bias.float(), model, attention.head_dim)
    return (out @ values).T, offset


def _spread(x: Tensor, model: Any, size: int) -> Tensor:
    """(H_kv d, ...) -> (H d, ...): repeat what several heads share."""
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    return x.unflatten(0, (-1, size)).repeat_interleave(shared, dim=0).flatten(0, 1)
