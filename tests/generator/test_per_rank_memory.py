"""The per_rank generator on a base with spare units: a memory beside the base's own MLP, and its calibration."""

from __future__ import annotations

import pytest
import torch
from tiny import PER_RANK, random_generator

from distilledprag.base_model import load_base
from distilledprag.generator import build_generator, load_generator
from distilledprag.lora import LoraBatch, inject
from distilledprag.pipeline import DistilledPRAG
from distilledprag.spare_units import add_spare_units

PASSAGES = [["Anna Tovberg lives in Oakport.", "She works for Velkor Foods."], ["Velkor Foods is based in Millport."]]
RANK = 8
SETTINGS = {**PER_RANK, "rank": RANK, "alpha": RANK}


@pytest.fixture(scope="module")
def wide_base(tiny_base_folder):
    base = load_base(tiny_base_folder, dtype=torch.float32)
    add_spare_units(base.model, RANK)
    base.identity = type(base.identity).of(base.model, base.mask_token_id, "wide")
    return base


def test_each_slot_has_a_spare_unit_to_itself(wide_base):
    generator = random_generator(wide_base, SETTINGS)
    batch = generator(generator.encode(wide_base, PASSAGES))
    size = wide_base.model.config.intermediate_size
    expected = torch.nn.functional.pad(torch.eye(RANK), (size - RANK, 0)).expand(2, -1, -1)  # (B, r, d_ff)
    for key, (a, b) in batch.modules.items():
        if "down_proj" in key:
            assert torch.equal(a, expected)
        else:
            assert torch.equal(b, expected.mT)


def test_the_adapter_is_an_mlp_beside_the_bases(wide_base):
    """LoRA on spare units equals the base's MLP plus B_down (silu(A_gate x) * (A_up x)), computed here by hand."""
    generator = random_generator(wide_base, SETTINGS)
    with torch.no_grad():
        batch = generator(generator.encode(wide_base, PASSAGES[:1]))
        x = torch.randn(1, 5, 32)
        mlp = wide_base.model.model.layers[1].mlp
        plain = mlp(x)
        with inject(wide_base.model, batch):
            adapted = mlp(x)
        gate, up = (batch.modules[f"layers.1.mlp.{name}_proj"][0] for name in ("gate", "up"))
        memory = (torch.nn.functional.silu(x @ gate.mT) * (x @ up.mT)) @ batch.modules["layers.1.mlp.down_proj"][1].mT
    assert memory.abs().max() > 1e-3
    torch.testing.assert_close(adapted, plain + memory, atol=1e-5, rtol=1e-4)


def test_naming_units_and_multiplying_give_the_same(wide_base):
    """The injection picks the units that one-hot factors name; factors that differ a little are multiplied instead."""
    generator = random_generator(wide_base, SETTINGS)
    with torch.no_grad():
        batch = generator(generator.encode(wide_base, PASSAGES))
        nearly = LoraBatch({key: (a * (1 + 1e-6), b * (1 + 1e-6)) for key, (a, b) in batch.modules.items()}, batch.scaling)
        prompt = torch.randint(5, 50, (3, 9))
        rows = torch.tensor([1, -1, 0])
        logits = []
        for adapters in (batch, nearly):
            with inject(wide_base.model, adapters, row_index=rows):
                logits.append(wide_base.model(input_ids=prompt).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[0][1], wide_base.model(input_ids=prompt[1:2]).logits[0], atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_trainable_parameter(wide_base):
    generator = random_generator(wide_base, SETTINGS).train()
    with inject(wide_base.model, generator(generator.encode(wide_base, PASSAGES))):
        wide_base.model(input_ids=torch.randint(5, 50, (2, 9))).logits.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_slots_without_a_token_write_nothing(wide_base):
    generator = random_generator(wide_base, SETTINGS)
    batch = generator(generator.encode(wide_base, [["ab"]]))
    tokens = int(generator.encode(wide_base, [["ab"]]).mask.sum())
    columns = batch.modules["layers.0.mlp.down_proj"][1][0]  # (d_out, r)
    assert 0 < tokens < RANK
    assert columns[:, tokens:].abs().max() == 0 and columns[:, :tokens].abs().min(dim=0).values.max() > 0


def test_an_exported_adapter_has_no_slots_without_a_token(wide_base):
    pipeline = DistilledPRAG(wide_base, random_generator(wide_base, SETTINGS))
    weights = pipeline.encode(["ab"])
    tokens = int(pipeline.generator.encode(wide_base, [["ab"]]).mask.sum())
    assert weights.rank == weights.alpha == tokens < RANK
    prompt = torch.randint(5, 50, (1, 9))
    with torch.no_grad():
        whole = pipeline.generator(pipeline.generator.encode(wide_base, [["ab"]]))
        logits = []
        for adapters in (whole, LoraBatch.stack([weights])):
            with inject(wide_base.model, adapters):
                logits.append(wide_base.model(input_ids=prompt).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-4)
    assert not torch.equal(logits[0], wide_base.model(input_ids=prompt).logits)


def test_too_few_spare_units_are_not_used(wide_base):
    generator = random_generator(wide_base, {**SETTINGS, "rank": RANK + 1})
    assert generator.own_units is None and "gate_proj" in generator.head_b


def test_a_token_memory_writes_the_tokens_embeddings(wide_base):
    """Untrained, column i of B of down is along the embedding of document token i."""
    generator = build_generator({**SETTINGS, "blocks": 0, "memories": [{"layer": 1, "writes": "token"}]}, wide_base)
    generator.begin_step(1000)
    documents = generator.encode(wide_base, [["Anna lives"]])
    columns = generator(documents).modules["layers.1.mlp.down_proj"][1][0]  # (D, r)
    read = documents.states[0, 0][documents.mask[0]]
    likeness = torch.nn.functional.cosine_similarity(columns.T[: len(read)], read)
    assert likeness.min() > 0.99


def test_a_generator_on_spare_units_is_saved_and_loaded(wide_base, tmp_path):
    generator = random_generator(wide_base, SETTINGS)
    generator.save_pretrained(tmp_path / "g")
    loaded = load_generator(tmp_path / "g", wide_base)
    documents = generator.encode(wide_base, PASSAGES)
    for key, factors in generator(documents).modules.items():
        for ours, theirs in zip(factors, loaded(documents).modules[key], strict=True):
            assert torch.equal(ours, theirs)
