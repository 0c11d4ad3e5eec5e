"""Attention guidance points at the right names, passages and tokens, and its losses are the model's own attention."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from distilledprag.prompts import PromptBuilder
from distilledprag.synthesis.world import World
from distilledprag.training.guidance import FLOOR, Guidance, GuidanceSettings, guide_row
from distilledprag.training.packing import IGNORED, TrainingRow, collate
from distilledprag.training.world_data import pack_example


@pytest.fixture(scope="module")
def pieces(tiny_base) -> list[str]:
    return [tiny_base.tokenizer.decode([token]) for token in range(len(tiny_base.tokenizer))]


@pytest.fixture(scope="module")
def row(tiny_base) -> TrainingRow:
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.tokenizer.pad_token_id)
    example = World("train").example(5, "bridge", 3)
    return pack_example(prompts, example, list(example.questions)[:6])


def test_the_guided_token_is_the_one_to_be_written_next(row, pieces):
    packed = row.packed
    places = guide_row(row, len(packed.open_ids), pieces).tokens
    assert len(places.queries) > 6
    for query, right in zip(places.queries.tolist(), places.right, strict=True):
        assert packed.targets[query] != IGNORED and right.any()
        for token in right.nonzero().flatten().tolist():
            assert packed.open_ids[token] == packed.targets[query] and packed.is_document[token]


def test_the_guided_passages_are_those_the_question_needs(tiny_base, row, pieces):
    packed = row.packed
    places = guide_row(row, len(packed.open_ids), pieces).passages
    assert places.queries.tolist() == [t for t, target in enumerate(packed.targets) if target != IGNORED]
    for query, right in zip(places.queries.tolist(), places.right, strict=True):
        text = tiny_base.tokenizer.decode(torch.tensor(packed.open_ids)[right])
        for position, passage in enumerate(row.passages):
            assert (passage[-20:] in text) == (position in row.documents[packed.segments[query] - 1])


def test_names_are_looked_for_backwards_within_the_own_passage_or_question(tiny_base, row, pieces):
    packed = row.packed
    places = guide_row(row, len(packed.open_ids), pieces).names
    for query, right in zip(places.queries.tolist(), places.right, strict=True):
        marked = right.nonzero().flatten().tolist()
        assert max(marked) <= query and {packed.segments[t] for t in marked} == {packed.segments[query]}
    last = max(t for t, inside in enumerate(packed.is_document) if inside)
    text = tiny_base.tokenizer.decode(torch.tensor(packed.open_ids)[places.right[places.queries.tolist().index(last)]])
    assert row.entities[-1] in text


def test_the_losses_are_the_surprise_of_the_models_own_attention(tiny_base, row, pieces):
    model = AutoModelForCausalLM.from_config(tiny_base.model.config, attn_implementation="eager").eval()
    model.load_state_dict(tiny_base.model.state_dict())
    guidance = Guidance(model, GuidanceSettings(weight=1.0, name_layers=(0,), passage_layers=(1,), token_layers=(2,)))
    batch = collate([row.packed, row.packed], 0)
    guide = guide_row(row, batch.open_ids.size(1), pieces)
    with guidance.listening(), torch.no_grad():
        layers = model(
            input_ids=batch.open_ids, attention_mask=batch.attention, position_ids=batch.positions, output_attentions=True
        ).attentions
    losses = guidance.losses(batch, [guide, guide])
    for name, layer, heads in (("names", 0, slice(0, 2)), ("passages", 1, slice(0, 2)), ("tokens", 2, slice(2, 4))):
        places = getattr(guide, name)
        mass = (layers[layer][0, heads][:, places.queries] * places.right).sum(-1)
        assert losses[name].item() == pytest.approx(-mass.clamp_min(FLOOR).log().mean().item(), rel=1e-3)
