"""The paper's ablations of the mask: what each kind of mask changes."""

from __future__ import annotations

import pytest
import torch
from pairs import write_pairs
from tiny import PAPER, random_generator

from distilledprag.distillation.generator_training import DistillTask
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.evaluation.methods import METHODS, Question, Setting, mask_row
from distilledprag.generators import build_generator, load_generator
from distilledprag.generators.interface import mask_embedded_as
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder

ITEM = Question("Where does Anna Tovberg live?", passages=("Anna Tovberg lives in Oakport.", "Bram lives in Dunburg."))


def task(base, folder, settings):
    data = {"files": [str(write_pairs(folder))], "batch_size": 2, "questions_per_context": 2, "validation_share": 0.2}
    recipe = DistillRecipe(output=folder, generator=settings, data=data, training={"steps": 2})
    return DistillTask(base, random_generator(base, settings), recipe)


def test_a_trainable_mask_learns_and_travels_with_the_generator(tiny_base, tmp_path):
    trained = task(tiny_base, tmp_path, {**PAPER, "mask": "trainable"})
    table = tiny_base.model.get_input_embeddings().weight
    before = table.clone()
    trained.losses(trained.batch(0), trained.module, 1)["loss"].backward()
    assert trained.module.mask_row.grad.abs().sum() > 0 and torch.equal(table, before)
    trained.module.save_pretrained(tmp_path / "generator")
    assert torch.equal(load_generator(tmp_path / "generator", tiny_base).mask_row, trained.module.mask_row)


def test_a_trainable_mask_starts_as_the_installed_one_and_a_random_one_does_not(tiny_base):
    installed = tiny_base.model.get_input_embeddings().weight[tiny_base.mask_token_id]
    assert torch.equal(build_generator({**PAPER, "mask": "trainable"}, tiny_base).mask_row, installed)
    drawn = build_generator({**PAPER, "mask": "random"}, tiny_base)
    assert not torch.equal(drawn.mask_row, installed) and "mask_row" not in dict(drawn.named_parameters())
    assert drawn.mask_row.std().item() == pytest.approx(tiny_base.model.config.initializer_range, rel=0.5)
    assert not hasattr(build_generator(PAPER, tiny_base), "mask_row")


def test_mask_tokens_are_embedded_as_the_row_inside_the_block_only(tiny_base):
    ids = torch.tensor([[5, tiny_base.mask_token_id, 7]])
    embed, row = tiny_base.model.get_input_embeddings(), torch.arange(32.0)
    before = embed(ids)
    with mask_embedded_as(tiny_base, row):
        inside = embed(ids)
    assert torch.equal(inside[0, 1], row) and torch.equal(inside[0, ::2], before[0, ::2])
    assert torch.equal(embed(ids), before)


def test_without_a_mask_the_student_computes_what_the_prompt_without_document_tokens_gives(tiny_base, tmp_path):
    trained = task(tiny_base, tmp_path, {**PAPER, "mask": "none"})
    batch = trained.batch(0)
    adapters = trained.module(trained.read(batch)[1])
    made = trained.answer(batch, adapters).logits
    batch.student.ids = torch.where(batch.is_document, 9, batch.student.ids)
    assert torch.allclose(trained.answer(batch, adapters).logits, made, atol=1e-5)  # what stands there does not matter

    rows = trained.batch(0).student
    keep = (rows.is_token[0] & ~batch.is_document[0] & (rows.segments[0] <= 1)).nonzero()[:, 0]
    ids = rows.ids[:1, keep]
    supervised = rows.is_supervised[0, keep].nonzero()[:, 0]
    first = LoraBatch({key: (a[:1], b[:1]) for key, (a, b) in adapters.modules.items()}, adapters.scaling)
    with inject(tiny_base.model, first):
        direct = tiny_base.model(input_ids=ids).logits[0, supervised]
    assert len(supervised) > 1 and torch.allclose(made[: len(supervised)], direct, atol=1e-4)


def test_evaluation_uses_the_mask_that_the_generator_was_trained_with(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    none = Setting(tiny_base, prompts, {"paper": random_generator(tiny_base, {**PAPER, "mask": "none"})})
    assert tiny_base.mask_token_id not in METHODS["paper"](none, [ITEM]).prompts[0]
    own = Setting(tiny_base, prompts, {"paper": random_generator(tiny_base, {**PAPER, "mask": "trainable"})})
    assert mask_row(own, "paper") is own.generators["paper"].mask_row
    assert mask_row(own, "rag") is None
    assert mask_row(own, "shuffled_paper") is mask_row(own, "paper")
