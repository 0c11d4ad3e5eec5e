"""The `paper` generator equals an independent implementation, written here from the paper's description, tensor by tensor.

    L = layers of the LLM, S = document tokens, E = width of the encoder, r = rank

The paper: learnable queries, one a layer, attend to the document's token states (multi-head cross-attention), then to each other
(a self-attention encoder); a feed-forward network with ReLU turns each into the flat LoRA of its layer. One such stack for gate,
up and down projections. B is scaled by 1e-4 + 0.9999 sigmoid(s).
"""

from __future__ import annotations

import math

import pytest
import torch
from tiny import random_generator

PASSAGES = ["Anna Tovberg lives in Oakport.", "She works for Velkor Foods."]
SETTINGS = {
    "architecture": "paper", "encoder": "base", "rank": 3, "alpha": 3, "projector_hidden": 20, "heads": 4, "feed_forward": 40,
}  # fmt: skip


def layer_norm(x, weight, bias):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def attention(queries, keys, weights, prefix, heads):
    """Multi-head attention of queries (L, E) over keys (S, E), head by head."""
    in_weight, in_bias = weights[f"{prefix}.in_proj_weight"], weights[f"{prefix}.in_proj_bias"]
    width = queries.shape[1]
    q = queries @ in_weight[:width].T + in_bias[:width]
    k = keys @ in_weight[width : 2 * width].T + in_bias[width : 2 * width]
    v = keys @ in_weight[2 * width :].T + in_bias[2 * width :]
    size, parts = width // heads, []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / math.sqrt(size)
        parts.append(torch.exp(scores - scores.logsumexp(-1, keepdim=True)) @ v[:, own])
    return torch.cat(parts, dim=1) @ weights[f"{prefix}.out_proj.weight"].T + weights[f"{prefix}.out_proj.bias"]


def flat_lora(states, weights, module, heads, cross_layers, encoder_layers):
    """(L, r (d_in + d_out)): the flat LoRA of every layer for one target module."""
    prefix = f"stacks.{module}"
    x = weights[f"{prefix}.queries"]
    for number in range(cross_layers):
        x = attention(x, states, weights, f"{prefix}.cross.{number}", heads)
    for number in range(encoder_layers):
        layer = f"{prefix}.encoder.layers.{number}"
        normed = layer_norm(x, weights[f"{layer}.norm1.weight"], weights[f"{layer}.norm1.bias"])
        x = x + attention(normed, normed, weights, f"{layer}.self_attn", heads)
        normed = layer_norm(x, weights[f"{layer}.norm2.weight"], weights[f"{layer}.norm2.bias"])
        inner = (normed @ weights[f"{layer}.linear1.weight"].T + weights[f"{layer}.linear1.bias"]).clamp(min=0)
        x = x + inner @ weights[f"{layer}.linear2.weight"].T + weights[f"{layer}.linear2.bias"]
    return (x @ weights[f"{prefix}.projector.0.weight"].T).clamp(min=0) @ weights[f"{prefix}.projector.2.weight"].T


@pytest.mark.parametrize("cross_layers, encoder_layers", [(1, 1), (2, 3)])
def test_the_same_weights_give_the_same_lora(tiny_base, cross_layers, encoder_layers):
    settings = {**SETTINGS, "cross_layers": cross_layers, "encoder_layers": encoder_layers}
    generator = random_generator(tiny_base, settings)
    documents = generator.encode(tiny_base, [PASSAGES, PASSAGES[:1]])  # the second is padded
    with torch.no_grad():
        generator.scale.fill_(-1.5)
        made = generator(documents)
    weights = dict(generator.state_dict())
    scale = 1e-4 + 0.9999 / (1 + math.exp(1.5))
    for row in range(2):
        states = documents.states[-1, row][documents.mask[row]]
        states = layer_norm(states, weights["document_norm.weight"], weights["document_norm.bias"])
        for module in ("gate_proj", "up_proj", "down_proj"):
            flat = flat_lora(states, weights, module, 4, cross_layers, encoder_layers)
            for layer in range(3):
                linear = getattr(tiny_base.model.model.layers[layer].mlp, module)
                cut = 3 * linear.in_features
                a = flat[layer, :cut].reshape(3, linear.in_features)
                b = flat[layer, cut:].reshape(linear.out_features, 3) * scale
                ours = made.modules[f"layers.{layer}.mlp.{module}"]
                assert torch.allclose(ours[0][row], a, atol=1e-5) and torch.allclose(ours[1][row], b, atol=1e-5)
