"""Rows of A that start as the base's own attention: their products are its scores."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distilledprag.generator import attention_rows
from distilledprag.generator.attention_rows import STRENGTH, AttentionRows
from distilledprag.generator.base_states import typical_inputs
from distilledprag.prompts import PromptBuilder

SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


def random_model(config_class, model_class):
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("config_class, model_class", [
    (LlamaConfig, LlamaForCausalLM), (MistralConfig, MistralForCausalLM), (Qwen2Config, Qwen2ForCausalLM),
])  # fmt: skip
@pytest.mark.parametrize("module", ["gate_proj", "q_proj"])
def test_a_row_times_a_state_is_the_attention_score(config_class, model_class, module, monkeypatch):
    """Against q k^T computed head by head, without rotary embeddings, up to one factor and the query's bias."""
    monkeypatch.setattr(attention_rows, "FAST", 0.0)
    model = random_model(config_class, model_class)
    rows = AttentionRows(model, module, [(0, 1)], rank=3)
    token, state = torch.randn(3, 32), torch.randn(5, 32)
    layer, looked = model.model.layers[0], model.model.layers[1]
    behind = layer.input_layernorm if module == "q_proj" else layer.post_attention_layernorm
    key = looked.self_attn.k_proj(looked.input_layernorm.weight * token).unflatten(-1, (2, 8)).repeat_interleave(2, dim=1)
    query = (looked.input_layernorm.weight * state) @ looked.self_attn.q_proj.weight.T
    scores = torch.einsum("thd,shd->ts", key, query.unflatten(-1, (4, 8)))  # (3 tokens, 5 states)
    products = rows(token[None, None])[0, 0] @ (behind.weight * state).T
    torch.testing.assert_close(products / products.norm(), scores / scores.norm(), atol=1e-5, rtol=1e-4)


def test_rows_have_the_same_strength_in_every_base():
    """A row for a random state has length STRENGTH on average (biases aside)."""
    rows = AttentionRows(random_model(LlamaConfig, LlamaForCausalLM), "gate_proj", [(0, 0)], rank=2)
    made = rows(torch.randn(1, 4000, 2, 32))
    assert made.square().sum(-1).mean().sqrt().item() == pytest.approx(STRENGTH, rel=0.05)


def test_pairs_that_turn_fast_with_the_distance_start_without_weight():
    rows = AttentionRows(random_model(LlamaConfig, LlamaForCausalLM), "gate_proj", [(0, 0)], rank=1)
    first_head = rows.weights[0, 0, 0, :8]
    assert first_head.tolist() == [0, 1, 1, 1, 0, 1, 1, 1]


def test_the_base_is_not_part_of_the_checkpoint_and_is_not_trained():
    rows = AttentionRows(random_model(LlamaConfig, LlamaForCausalLM), "gate_proj", [(0, 0), (1, 0)], rank=2)
    assert set(rows.state_dict()) == {"weights"} and [name for name, _ in rows.named_parameters()] == ["weights"]


def test_typical_inputs_are_means_over_the_last_tokens(tiny_base, monkeypatch):
    monkeypatch.setattr("distilledprag.generator.base_states.QUESTIONS", ("Who?",))
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    found = typical_inputs(tiny_base, prompts, ["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"])
    model = tiny_base.model.model
    with torch.no_grad():
        states = model.embed_tokens(torch.tensor([prompts.closed_book("Who?")]))
        expected = model.layers[0].input_layernorm(states)[0, -3:].mean(0)
    torch.testing.assert_close(found["layers.0.self_attn.q_proj"], expected)
    assert found["layers.1.mlp.up_proj"].shape == (32,)
    assert not model.layers[0].self_attn.q_proj._forward_pre_hooks
