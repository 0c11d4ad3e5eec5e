"""Every method behind one interface: what it is prompted with, and whose documents its adapter is made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pairs import PEOPLE, document
from tiny import PAPER, random_generator

from distilledprag.baselines import AugmentedDocument, PragAdapters, PragSettings
from distilledprag.decoding import greedy_texts
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import METHODS, NEEDS, PARAMETRIC, Item, Setting, prepare_adapters
from distilledprag.prompts import PromptBuilder


def asked(first: int) -> Item:
    """A question about one of two documents; the control's documents are those of the next question."""
    names = list(PEOPLE)
    own, others = (names[first + step : first + step + 2] for step in (0, 2))

    def augmented(name):
        city, work = PEOPLE[name]
        rewrite = f"{city} is the home of {name}, a {work}."
        return AugmentedDocument(document(name), rewrite, ((f"Where does {name} live?", city),))

    texts = [tuple(map(document, chosen)) for chosen in (own, others)]
    made = [tuple(map(augmented, chosen)) for chosen in (own, others)]
    return Item(f"Where does {own[0]} live?", PEOPLE[own[0]][0], *texts, *made)


def answers(setting: Setting, method: str, items: list[Item]) -> list[str]:
    prepare_adapters(setting, method, items)
    prompts, adapters = METHODS[method](setting, items)
    with torch.no_grad():
        return greedy_texts(setting.base, prompts, adapters, setting.prompts.end_of_turn_id, 8)


@pytest.fixture(scope="module")
def setting(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    generators = {
        "distilled_paper": random_generator(tiny_base, PAPER),
        "dyprag": random_generator(tiny_base, {"architecture": "dyprag", "alpha": 4}),
    }
    return Setting(tiny_base, prompts, generators, PragAdapters(tiny_base, prompts, PragSettings(lr=1e-2), "hash"))


@pytest.fixture(scope="module")
def items():
    return [asked(0), asked(2)]


def test_the_contracts_methods_are_there():
    wanted = {"closed_book", "rag", "prag", "dyprag", "distilled_paper", "shuffled"}
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
    assert torch.allclose(control.modules[key][1][:1], following, atol=1e-5)


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
        METHODS["prag"](setting, [replace(items[0], augmented=())])
