"""Injection == PEFT == merged weights, forwards and backwards, on every supported architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from lora_examples import (
    ALL_TARGETS,
    ARCHITECTURES,
    logits_of,
    random_adapter,
    random_tokens,
    same_tensors,
    tiny_model,
)
from peft import PeftModel

from distilledprag.lora import MLP_TARGETS, LoraBatch, LoraWeights, inject, merge_into, merged
from distilledprag.lora.peft_format import tensor_names

TARGETS = pytest.mark.parametrize("targets", [MLP_TARGETS, ALL_TARGETS], ids=["mlp", "mlp+attention"])
EVERY_ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)


@EVERY_ARCHITECTURE
@TARGETS
def test_injected_equals_exported_to_peft_equals_merged(architecture, targets, tmp_path):
    model, tokens = tiny_model(architecture), random_tokens(rows=2)
    weights = random_adapter(model.config, targets, rank=3, alpha=7.5)
    plain = logits_of(model, tokens)
    with inject(model, LoraBatch.stack([weights])):
        injected = logits_of(model, tokens)
    with merged(model, weights):
        folded = logits_of(model, tokens)
    weights.save_pretrained(tmp_path / "adapter")
    in_peft = logits_of(PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter"), tokens)
    assert (injected - plain).abs().max() > 0.1, "the adapter must matter for this test to mean anything"
    torch.testing.assert_close(injected, in_peft, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(injected, folded, rtol=1e-5, atol=1e-5)


@EVERY_ARCHITECTURE
def test_gradients_of_a_and_b_equal_those_through_peft(architecture, tmp_path):
    model, tokens = tiny_model(architecture), random_tokens(rows=2)
    weights = random_adapter(model.config, ALL_TARGETS)
    weights.save_pretrained(tmp_path / "adapter")
    peft_model = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter", is_trainable=True)
    torch.nn.functional.cross_entropy(peft_model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected = {name.replace(".default.", "."): value.grad for name, value in peft_model.named_parameters()}

    batch = LoraBatch.stack([weights])
    for a, b in batch.modules.values():
        a.requires_grad_()
        b.requires_grad_()
    with inject(model, batch):
        logits = model(tokens).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for key, factors in batch.modules.items():
        for name, factor in zip(tensor_names(key), factors, strict=True):
            assert expected[name].abs().max() > 0
            torch.testing.assert_close(factor.grad[0], expected[name], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_adapter_on_some_modules_only_means_the_same_to_peft(tmp_path):
    model, tokens = tiny_model(num_hidden_layers=3), random_tokens()
    whole = random_adapter(model.config)
    for chosen in (["layers.1.mlp.up_proj"], ["layers.0.mlp.gate_proj", "layers.2.mlp.down_proj"]):
        weights = LoraWeights({key: whole.modules[key] for key in chosen}, 6.0, whole.base, "")
        weights.save_pretrained(tmp_path / "adapter")
        peft_model = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
        adapted = {name for name, _ in peft_model.named_modules() if name.endswith("lora_A")}
        assert adapted == {f"base_model.model.model.{key}.lora_A" for key in chosen}
        with inject(model, LoraBatch.stack([weights])):
            injected = logits_of(model, tokens)
        torch.testing.assert_close(injected, logits_of(peft_model, tokens), rtol=1e-5, atol=1e-5)


def test_an_adapter_that_peft_saved_again_still_loads(tmp_path):
    model = tiny_model()
    weights = random_adapter(model.config)
    weights.save_pretrained(tmp_path / "ours")
    PeftModel.from_pretrained(model, tmp_path / "ours").save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    (tmp_path / "theirs" / "distilledprag.json").write_bytes((tmp_path / "ours" / "distilledprag.json").read_bytes())
    assert same_tensors(LoraWeights.from_pretrained(tmp_path / "theirs"), weights)


def test_merge_into_changes_exactly_the_targeted_weights_for_good():
    model, untouched = tiny_model(), tiny_model()
    weights = random_adapter(model.config)
    merge_into(model, weights)
    for name, parameter in model.named_parameters():
        original = untouched.get_parameter(name)
        key = name.removeprefix("model.").removesuffix(".weight")
        if key in weights.modules:
            pair = weights.modules[key]
            expected = original + weights.alpha / weights.rank * pair.b @ pair.a
            torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(parameter, original)
