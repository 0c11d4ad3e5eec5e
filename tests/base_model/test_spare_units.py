"""Spare units: adding them changes no output, finding them finds those only."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distilledprag.base_model import load_base, save_base
from distilledprag.errors import CheckpointError
from distilledprag.spare_units import add_spare_units, spare_units

SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


@pytest.mark.parametrize("config, model_class", [
    (LlamaConfig(**SIZES), LlamaForCausalLM),
    (LlamaConfig(**SIZES, mlp_bias=True), LlamaForCausalLM),
    (Qwen2Config(**SIZES), Qwen2ForCausalLM),
])  # fmt: skip
def test_a_wider_model_computes_the_same(config, model_class):
    torch.manual_seed(0)
    model = model_class(config).eval()
    ids = torch.randint(0, 50, (2, 9))
    before = model(input_ids=ids).logits
    assert spare_units(model).tolist() == []
    add_spare_units(model, 5)
    assert model.config.intermediate_size == 53 and model.model.layers[1].mlp.down_proj.in_features == 53
    torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-6, rtol=0)
    assert spare_units(model).tolist() == [48, 49, 50, 51, 52]


def test_spare_units_that_were_trained_are_refused():
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    add_spare_units(model, 1)
    add_spare_units(model, 2)
    assert spare_units(model).tolist() == [48, 49, 50]
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[49, 7] = 0.1
    with pytest.raises(CheckpointError, match="layer 1 uses them"):
        spare_units(model)


def test_a_frozen_model_stays_frozen_and_a_negative_number_is_refused():
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval().requires_grad_(False)
    add_spare_units(model, 1)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="-1"):
        add_spare_units(model, -1)


def test_a_base_with_spare_units_is_saved_and_loaded(tiny_base_folder, tmp_path):
    base = load_base(tiny_base_folder, dtype=torch.float32)
    before = base.identity
    add_spare_units(base.model, 4)
    save_base(base.model, base.tokenizer, tmp_path / "wide")
    loaded = load_base(tmp_path / "wide")
    assert len(spare_units(loaded.model)) == 4
    assert loaded.identity != before
