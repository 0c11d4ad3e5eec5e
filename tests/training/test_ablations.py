"""The paper's ablations: what each kind of mask changes, and recipes that differ from the full one in one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import PAPER, PER_RANK, random_generator

from distilledprag.commands.train import read_recipe
from distilledprag.errors import ConfigError
from distilledprag.evaluation.methods import METHODS, Item, Setting, mask_row
from distilledprag.evaluation.world import answers
from distilledprag.generator import build_generator, load_generator
from distilledprag.generator.mask_kind import mask_embedded_as
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder
from distilledprag.training.distill import DistillRecipe, DistillTask

RECIPES = Path(__file__).parents[2] / "recipes" / "ablations"
ITEM = Item("Where does Anna Tovberg live?", "Oakport", ("Anna Tovberg lives in Oakport.", "Bram lives in Dunburg."), ("x.",))


def task(base, folder, settings):
    data = {"source": "world", "questions": 3, "rows": {1: 2, 2: 2, 3: 2, 4: 2}, "validation": 2}
    data["phases"] = [{"documents": {2: 1}, "kinds": {"single": 1}}]
    recipe = DistillRecipe(output=folder, generator=settings, data=data, training={"steps": 2})
    return DistillTask(base, random_generator(base, settings), recipe)


@pytest.mark.parametrize("settings", [PER_RANK, PAPER], ids=["per_rank", "paper"])
def test_a_trainable_mask_learns_and_travels_with_the_generator(tiny_base, tmp_path, settings):
    trained = task(tiny_base, tmp_path, {**settings, "mask": "trainable"})
    table = tiny_base.model.get_input_embeddings().weight
    before = table.clone()
    trained.losses(trained.batch(0), trained.module, 1)["loss"].backward()
    assert trained.module.mask_row.grad.abs().sum() > 0 and torch.equal(table, before)
    trained.module.save_pretrained(tmp_path / "generator")
    assert torch.equal(load_generator(tmp_path / "generator", tiny_base).mask_row, trained.module.mask_row)


def test_a_trainable_mask_starts_as_the_installed_one_and_a_random_one_does_not(tiny_base):
    installed = tiny_base.model.get_input_embeddings().weight[tiny_base.mask_token_id]
    assert torch.equal(build_generator({**PER_RANK, "mask": "trainable"}, tiny_base).mask_row, installed)
    drawn = build_generator({**PER_RANK, "mask": "random"}, tiny_base)
    assert not torch.equal(drawn.mask_row, installed) and "mask_row" not in dict(drawn.named_parameters())
    assert drawn.mask_row.std().item() == pytest.approx(tiny_base.model.config.initializer_range, rel=0.5)
    assert not hasattr(build_generator(PER_RANK, tiny_base), "mask_row")


def test_mask_tokens_are_embedded_as_the_row_inside_the_block_only(tiny_base):
    ids = torch.tensor([[5, tiny_base.mask_token_id, 7]])
    embed, row = tiny_base.model.get_input_embeddings(), torch.arange(32.0)
    before = embed(ids)
    with mask_embedded_as(tiny_base, row):
        inside = embed(ids)
    assert torch.equal(inside[0, 1], row) and torch.equal(inside[0, ::2], before[0, ::2])
    assert torch.equal(embed(ids), before)


def test_without_a_mask_the_student_computes_what_the_prompt_without_document_tokens_gives(tiny_base, tmp_path):
    trained = task(tiny_base, tmp_path, {**PER_RANK, "mask": "none"})
    batch = trained.batch(0)
    adapters = trained.module(trained.read(batch)[1])
    made = trained.answer(batch, adapters).logits
    batch.tokens.masked_ids = torch.where(batch.tokens.is_document, 9, batch.tokens.masked_ids)
    assert torch.allclose(trained.answer(batch, adapters).logits, made, atol=1e-5)  # what stands there does not matter

    row = trained.data.rows(0)[0]
    keep = [place for place, hidden in enumerate(row.packed.is_document) if not hidden and row.packed.segments[place] <= 1]
    ids = torch.tensor([[row.packed.masked_ids[place] for place in keep]])
    supervised = [number for number, place in enumerate(keep) if row.packed.targets[place] != -100]
    from distilledprag.lora.batch import LoraBatch
    from distilledprag.lora.injection import inject

    first = LoraBatch({key: (a[:1], b[:1]) for key, (a, b) in adapters.modules.items()}, adapters.scaling)
    with inject(tiny_base.model, first):
        direct = tiny_base.model(input_ids=ids).logits[0, supervised]
    assert torch.allclose(made[: len(supervised)], direct, atol=1e-4)


def test_evaluation_uses_the_mask_that_the_generator_was_trained_with(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    none = Setting(tiny_base, prompts, {"distilled_paper": random_generator(tiny_base, {**PAPER, "mask": "none"})})
    assert tiny_base.mask_token_id not in METHODS["distilled_paper"](none, [ITEM])[0][0]
    own = Setting(tiny_base, prompts, {"distilled_paper": random_generator(tiny_base, {**PAPER, "mask": "trainable"})})
    assert mask_row(own, "distilled_paper") is own.generators["distilled_paper"].mask_row
    assert mask_row(own, "rag") is None
    assert answers(own, "shuffled_paper", [ITEM])


def test_an_ablation_is_not_served(tiny_base):
    with pytest.raises(ConfigError, match="ablation"):
        DistilledPRAG(tiny_base, build_generator({**PER_RANK, "mask": "none"}, tiny_base))


@pytest.mark.parametrize("name", ["paper", "per-rank"])
def test_every_ablation_differs_from_the_full_recipe_in_what_it_is_named_after(name):
    def values(file):
        return read_recipe(file, DistillRecipe).model_dump(mode="json", exclude={"output"})

    full = values(RECIPES / f"{name}-full.yaml")
    expected = {
        "no-cosine": {"losses": {"cosine_weight": 0.0}},
        "no-kl": {"losses": {"kl_weight": 0.0}},
        "no-cosine-no-kl": {"losses": {"cosine_weight": 0.0, "kl_weight": 0.0}},
        "no-mask": {"generator": {"mask": "none"}},
        "random-mask": {"generator": {"mask": "random"}},
        "trainable-mask": {"generator": {"mask": "trainable"}},
    }
    for ablation, changes in expected.items():
        changed = {section: {**full[section], **change} for section, change in changes.items()}
        assert values(RECIPES / f"{name}-{ablation}.yaml") == {**full, **changed}
    single = values(RECIPES / f"{name}-single-document.yaml")
    assert {tuple(phase["documents"]) for phase in single["data"].pop("phases")} <= {(1,), ("1",)}
    full["data"].pop("phases")
    assert single == full
    outputs = [read_recipe(file, DistillRecipe).output for file in RECIPES.glob("*.yaml")]
    assert len(set(outputs)) == len(outputs) == 16
