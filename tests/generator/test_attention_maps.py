"""Maps of a token's state: their products are the base's attention scores, their values what its attention writes."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distilledprag.generator import attention_maps
from distilledprag.generator.attention_maps import key_map, value_map

SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
EVERY = pytest.mark.parametrize("config_class, model_class", [
    (LlamaConfig, LlamaForCausalLM), (MistralConfig, MistralForCausalLM), (Qwen2Config, Qwen2ForCausalLM),
])  # fmt: skip


def random_model(config_class, model_class):
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return model


@EVERY
def test_a_key_times_a_state_is_the_attention_score(config_class, model_class, monkeypatch):
    """Against q k^T / sqrt(d) computed head by head, without rotary embeddings and the query's bias."""
    monkeypatch.setattr(attention_maps, "FAST", 0.0)
    model = random_model(config_class, model_class)
    token, state = torch.randn(3, 32), torch.randn(5, 32)
    layer, looked = model.model.layers[0], model.model.layers[1]
    with torch.no_grad():
        key = looked.self_attn.k_proj(looked.input_layernorm.weight * token).unflatten(-1, (2, 8)).repeat_interleave(2, dim=1)
        query = (looked.input_layernorm.weight * state) @ looked.self_attn.q_proj.weight.T
        scores = torch.einsum("thd,shd->ts", key, query.unflatten(-1, (4, 8))) / 8**0.5  # (3 tokens, 5 states)
        matrix, offset = key_map(model, look=1, layer=0)
        products = (token @ matrix + offset) @ (layer.post_attention_layernorm.weight * state).T
    torch.testing.assert_close(products, scores, atol=1e-5, rtol=1e-4)


def test_pairs_that_turn_fast_with_the_distance_are_left_out():
    """Of a head's four rotary pairs the fastest, dimensions 0 and 4, has no part in a key."""
    model = random_model(LlamaConfig, LlamaForCausalLM)
    before = key_map(model, look=0, layer=0)[0]
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[[0, 4]] += 1.0
    assert torch.equal(key_map(model, look=0, layer=0)[0], before)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[1] += 1.0
    assert not torch.equal(key_map(model, look=0, layer=0)[0], before)


@EVERY
def test_the_value_is_what_attention_to_one_token_writes(config_class, model_class):
    model = random_model(config_class, model_class)
    ids = torch.tensor([[7]])  # alone, a token attends to itself only
    written = []
    handle = model.model.layers[1].self_attn.register_forward_hook(lambda _, inputs, output: written.append(output[0]))
    with torch.no_grad():
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        handle.remove()
        matrix, offset = value_map(model, look=1)
        n = torch.nn.functional.rms_norm(states, (32,), eps=model.config.rms_norm_eps)
    torch.testing.assert_close(n @ matrix + offset, written[0][0], atol=1e-5, rtol=1e-4)
