"""Measuring the layer after which states are written."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base import layer_choice
from distilledprag.base.layer_choice import built_in_questions, candidate_layers, choose_layer
from distilledprag.base.llm import BaseLLM
from distilledprag.base.masks import install_mask
from distilledprag.base.prepare import prepare_base
from distilledprag.base.prepared import encoder_folder, prepared_record
from distilledprag.lora.identity import BaseIdentity


@pytest.fixture(scope="module")
def base():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, num_hidden_layers=6)
    mask = install_mask(model, tokenizer)
    identity = BaseIdentity.of(model, mask, "tiny")
    return BaseLLM(model, tokenizer, mask, identity, identity.id)


def test_the_built_in_questions_are_answered_by_their_passages():
    questions = built_in_questions()
    assert len(questions) >= 20 and len({item.passage for item in questions}) == len(questions)
    for item in questions:
        assert item.answer in item.passage and 25 <= len(item.passage.split()) <= 60


@pytest.mark.parametrize("layers", [1, 2, 3, 12, 30, 80])
def test_candidates_exist_and_leave_layers_above_them(layers):
    candidates = candidate_layers(layers)
    assert candidates == sorted(set(candidates)) and candidates[0] >= 0 and candidates[-1] <= max(0, 0.7 * layers)


def test_the_deepest_layer_that_keeps_enough_is_taken_else_the_one_that_keeps_most(base, monkeypatch):
    monkeypatch.setattr(layer_choice, "LEAST_F1", 0.0)
    table = choose_layer(base, questions=built_in_questions()[:1], candidates=[0, 1, 2])
    kept = {one.layer: one.kept for one in table.layers}
    good = [layer for layer, value in kept.items() if value >= layer_choice.LEAST_KEPT]
    assert table.chosen == (max(good) if good else max(kept, key=kept.__getitem__))
    assert all(value <= 1.0001 for value in kept.values())


def test_what_is_measured_is_what_the_model_does_with_written_states(base):
    """`kept` and `agreement` of one question, worked out by hand."""
    from distilledprag.base.architecture import hidden_after
    from distilledprag.base.llm import greedy_ids
    from distilledprag.prompts import PromptBuilder

    item, layer = built_in_questions()[3], 2
    table = choose_layer(base, questions=[item], candidates=[layer])
    prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
    built = prompts.build(item.question, [item.passage])
    answer = greedy_ids(base, [built.open_ids], None, prompts.end_of_turn_id, 12)[0]
    context = prompts.context([item.passage])
    states = hidden_after(base.model, [layer], input_ids=torch.tensor([context.open_ids]))[layer][0]
    masked = torch.tensor([[*built.masked_ids, *answer]])

    def overwrite(_, __, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, masked[0] == base.mask_token_id] = states[torch.tensor(context.is_document)]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def log_probabilities(ids):
        with torch.no_grad():
            return base.model(input_ids=ids).logits[0, len(built.open_ids) - 1 : -1].log_softmax(-1)

    rag, bare = log_probabilities(torch.tensor([[*built.open_ids, *answer]])), log_probabilities(masked)
    handle = base.model.model.layers[layer].register_forward_hook(overwrite)
    written = log_probabilities(masked)
    handle.remove()

    def kl(other):
        return float((rag.exp() * (rag - other)).sum(-1).mean())

    assert table.layers[0].kept == pytest.approx(1 - kl(written) / kl(bare), abs=2e-3)
    assert table.masks_only_kl == pytest.approx(kl(bare), rel=1e-2, abs=2e-4)
    assert table.layers[0].agreement == pytest.approx(
        float((written.argmax(-1) == torch.tensor(answer)).float().mean()), abs=1e-4
    )


def test_prepare_base_keeps_the_measured_table_beside_the_layer(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    lines = []
    record = prepare_base(tmp_path / "plain", tmp_path / "served", count=4, steps=1, questions=2, progress=lines.append)
    assert record.measured is not None and record.measured["questions"] == 2
    tried = [one["layer"] for one in record.measured["layers"]]
    assert record.layer == record.measured["chosen"] and record.layer in tried
    assert any(line.startswith(f"layer {tried[0]}: kept") for line in lines)
    for folder in (tmp_path / "served", encoder_folder(tmp_path / "served")):
        assert prepared_record(folder) == prepared_record(tmp_path / "served")
        assert json.loads((folder / "distilledprag.json").read_text())["measured"] == json.loads(json.dumps(record.measured))
