"""Attention guidance points at the right passage and token, and its loss is the model's own attention."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from distilledprag.prompts import PromptBuilder
from distilledprag.synthesis.world import World
from distilledprag.training.guidance import Guidance, GuidanceSettings, guide_row
from distilledprag.training.packing import IGNORED, collate
from distilledprag.training.world_data import pack_example


@pytest.fixture(scope="module")
def rows(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.tokenizer.pad_token_id)
    example = World("train").example(5, "bridge", 3)
    return [pack_example(prompts, example, list(example.questions)[:6])]


def test_the_guided_token_is_the_one_to_be_written_next(rows):
    packed = rows[0].packed
    guide = guide_row(rows[0], len(packed.open_ids))
    assert guide.queries.tolist() == [t for t, target in enumerate(packed.targets) if target != IGNORED]
    assert guide.tokens.any(-1).float().mean() > 0.4
    for query, tokens in zip(guide.queries.tolist(), guide.tokens, strict=True):
        assert all(packed.open_ids[t] == packed.targets[query] for t in tokens.nonzero().flatten().tolist())
        assert all(packed.is_document[t] for t in tokens.nonzero().flatten().tolist())


def test_the_guided_passages_are_those_the_question_needs(tiny_base, rows):
    packed = rows[0].packed
    guide = guide_row(rows[0], len(packed.open_ids))
    ids = torch.tensor(packed.open_ids)
    first = {packed.segments[query]: mask for query, mask in zip(guide.queries.tolist(), guide.passages, strict=True)}
    for segment, needed in enumerate(rows[0].documents, start=1):
        text = tiny_base.tokenizer.decode(ids[first[segment]])
        for position, passage in enumerate(rows[0].passages):
            assert (passage[-20:] in text) == (position in needed)


def test_the_loss_is_the_surprise_of_the_models_own_attention(tiny_base, rows):
    model = AutoModelForCausalLM.from_config(tiny_base.model.config, attn_implementation="eager").eval()
    model.load_state_dict(tiny_base.model.state_dict())
    guidance = Guidance(model, GuidanceSettings(weight=1.0, passage_layers=(1,), token_layers=(2,)))
    batch = collate([row.packed for row in rows], 0)
    guide = guide_row(rows[0], batch.open_ids.size(1))
    with guidance.listening(), torch.no_grad():
        attention = model(
            input_ids=batch.open_ids, attention_mask=batch.attention, position_ids=batch.positions, output_attentions=True
        ).attentions
    passages = (attention[1][0, :2][:, guide.queries] * guide.passages).sum(-1)
    tokens = (attention[2][0, 2:4][:, guide.queries] * guide.tokens).sum(-1)[:, guide.tokens.any(-1)]
    expected = -torch.cat([passages.log().flatten(), tokens.log().flatten()]).mean()
    assert guidance.loss(batch, [guide]).item() == pytest.approx(expected.item(), rel=1e-4)
