"""Every method behind one interface: what it is prompted with, and whose documents its adapter is made from."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import PAPER, PER_RANK, random_generator

from distilledprag.baselines import PragAdapters, PragSettings
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import METHODS, NEEDS, PARAMETRIC, Setting
from distilledprag.evaluation.world import Cell, answers, augmented_items, items_of
from distilledprag.prompts import PromptBuilder

CELL = Cell("test", "single", 2)


@pytest.fixture(scope="module")
def setting(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    generators = {
        "distilled_per_rank": random_generator(tiny_base, PER_RANK),
        "distilled_paper": random_generator(tiny_base, PAPER),
        "dyprag": random_generator(tiny_base, {"architecture": "dyprag", "alpha": 4}),
    }
    return Setting(tiny_base, prompts, generators, PragAdapters(tiny_base, prompts, PragSettings(lr=1e-2), "hash"))


@pytest.fixture(scope="module")
def items():
    return augmented_items(CELL, items_of(CELL, 3, 0), 0)


def test_the_contracts_methods_are_there():
    wanted = {"closed_book", "rag", "prag", "dyprag", "distilled_paper", "distilled_per_rank", "shuffled"}
    assert wanted <= METHODS.keys() and NEEDS.keys() == METHODS.keys() - {"closed_book", "rag"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_answers_a_batch_as_it_answers_each_question(setting, items, method):
    assert answers(setting, method, items) == [answers(setting, method, [item])[0] for item in items]


@pytest.mark.parametrize("name", PARAMETRIC)
def test_controls_and_combinations_differ_in_one_thing_only(setting, items, name):
    short = name.removeprefix("distilled_")
    prompts, adapters = METHODS[name](setting, items)
    control_prompts, control = METHODS[f"shuffled_{short}"](setting, items)
    combined_prompts, combined = METHODS[f"rag_{name}"](setting, items)
    assert prompts == control_prompts == [setting.prompts.build(i.question, i.documents).masked_ids for i in items]
    assert combined_prompts == METHODS["rag"](setting, items)[0]
    key = next(iter(adapters.modules))
    same = [torch.equal(ours, theirs) for ours, theirs in zip(adapters.modules[key], combined.modules[key], strict=True)]
    assert all(same) and not torch.equal(adapters.modules[key][1], control.modules[key][1])
    following = METHODS[name](setting, items[1:])[1].modules[key][1]  # the control's documents are the next question's
    assert torch.allclose(control.modules[key][1][:2], following, atol=1e-5)


def test_the_papers_own_prompt_is_an_explicit_deviation(setting, items):
    own = Setting(setting.base, setting.prompts, setting.generators, setting.prag, {"prag": "question_only"})
    assert METHODS["prag"](own, items)[0] == METHODS["closed_book"](own, items)[0]
    assert METHODS["dyprag"](own, items)[0] == METHODS["dyprag"](setting, items)[0]


def test_a_method_without_what_it_needs_says_so(setting, items):
    bare = Setting(setting.base, setting.prompts, {})
    for name in PARAMETRIC:
        with pytest.raises(ConfigError, match=name):
            METHODS[name](bare, items)
    with pytest.raises(InputError, match="questions"):
        METHODS["prag"](setting, items_of(CELL, 1, 0))


def test_the_command_runs_prag_and_dyprag_on_the_world(
    setting, tiny_base_folder, tiny_generator_folder, tmp_path, dprag, monkeypatch
):
    from distilledprag.evaluation import world

    monkeypatch.setattr(world, "cells", lambda: iter([CELL]))
    setting.generators["dyprag"].save_pretrained(tmp_path / "translator")
    options = ["--base", tiny_base_folder, "--generator", tiny_generator_folder, "--json", tmp_path / "out.json", "--n", 2]
    code, _, error = dprag("evaluate", "--world", "--methods", "prag,dyprag", *options)
    assert code == 1 and "--dyprag-translator" in error
    options += ["--dyprag-translator", tmp_path / "translator", "--prag-adapters", tmp_path / "adapters"]
    code, _, error = dprag("evaluate", "--world", "--methods", "prag,dyprag,shuffled_prag", *options)
    assert code == 0, error
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["method"] for row in written["rows"]] == ["dyprag", "prag", "shuffled_prag"]
    assert written["config"]["generators"]["prag"].startswith("prag-")
    assert list((tmp_path / "adapters").rglob("*.safetensors"))
