"""A start for small base LMs in which copying already works, so that training can begin with reading.

From a usual random start a small LM spends most of its training on forming an induction circuit: one head that tells
each token what stood before it, and later heads that find the earlier place where the current token stood and copy what
followed. This module writes that circuit into the first two layers of a freshly initialised Llama model with attention
biases; everything stays trainable. (Initialisation in the shape of trained attention: Trockman & Kolter 2023; induction
heads: Olsson et al. 2022.)

D = model dimension, d = head dimension. Attention weights act as q = W_q x + b_q and are rotated by position (RoPE).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SHARPNESS = 40.0  # of the previous-token head: squared length per rotary pair
FREQUENCIES = 5  # rotary pairs that the previous-token head uses, the fastest ones


@torch.no_grad()
def install_induction(model: LlamaForCausalLM, *, embedding_std: float = 0.1, gain: float = 0.25, match: float = 2.0) -> None:
    """Overwrite heads 0 and 1 of layer 0 (previous token) and all heads of layer 1 (induction); draw new embeddings.

    gain: how strongly both write into the residual stream; match: scale of queries and keys of the induction heads.
    Uses torch's global random state. The model needs at least two layers and two heads.
    """
    config = model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    model.model.embed_tokens.weight.normal_(0.0, embedding_std)
    basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0]  # (D, D), orthonormal columns
    reads, writes = basis[:, : 2 * size].T, torch.linalg.qr(torch.randn(config.hidden_size, 2 * size))[0]
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    key, query = _previous_token_biases(config, size)
    for head in (0, 1):
        rows = slice(head * size, (head + 1) * size)
        first.q_proj.weight[rows], first.k_proj.weight[rows] = 0.0, 0.0
        first.q_proj.bias[rows], first.k_proj.bias[rows] = query, key
        first.v_proj.weight[rows] = reads[rows]
        first.o_proj.weight[:, rows] = gain * writes[:, rows]
    slow = _slow_dimensions(size)
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        used = torch.arange(head * len(slow), (head + 1) * len(slow)) % (2 * size)
        for projection, matrix in ((second.q_proj, reads), (second.k_proj, writes.T)):
            projection.weight[rows] = 0.0
            projection.weight[head * size + slow] = match * matrix[used]
        second.v_proj.weight[rows] = basis.T[rows]
        second.o_proj.weight[:, rows] = gain * basis[:, rows]


@torch.no_grad()
def install_matching(
    model: LlamaForCausalLM, *, collect: int, match: tuple[int, ...], gain: float = 0.5, strength: float = 1.5
) -> None:
    """Overwrite heads 0 and 1: those of layer `collect` copy what a token is into a subspace of their own (from where
    is left to training), those of the layers `match` look where that subspace holds the same as it does here.

    gain: how strongly the collected is written into the residual stream; strength: scale of the matching queries and
    keys. Uses torch's global random state.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    rows = slice(0, 2 * size)
    reads, writes = (torch.linalg.qr(torch.randn(config.hidden_size, 2 * size))[0] for _ in range(2))  # (D, 2 d)
    collecting = model.model.layers[collect].self_attn
    collecting.v_proj.weight[rows], collecting.o_proj.weight[:, rows] = reads.T, gain * writes
    slow = _slow_dimensions(size)
    for layer in match:
        attention = model.model.layers[layer].self_attn
        for head in range(2):
            used = torch.arange(head * len(slow), (head + 1) * len(slow))
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight[head * size : (head + 1) * size] = 0.0
                projection.weight[head * size + slow] = strength * writes.T[used]


def _previous_token_biases(config: LlamaConfig, size: int) -> tuple[Tensor, Tensor]:
    """Key and query biases (d,) whose rotated product is largest where the key stands one position before the query."""
    rope: Any = config.rope_parameters
    theta = rope["rope_theta"]
    angles = theta ** (-torch.arange(0, size, 2) / size)  # (d / 2,) radians per position, fastest first
    strength = torch.zeros(size // 2)
    strength[:FREQUENCIES] = math.sqrt(SHARPNESS)
    key = torch.cat([strength, torch.zeros(size // 2)])
    query = torch.cat([strength * angles.cos(), -strength * angles.sin()])
    return key, query


def _slow_dimensions(size: int) -> Tensor:
    """The dimensions of a head that RoPE turns least: matching by content works there at any distance."""
    pairs = torch.arange(size // 4, size // 2)
    return torch.cat([pairs, pairs + size // 2])
