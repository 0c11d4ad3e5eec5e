"""Every method behind one interface: what it is prompted with, and whose documents its adapter is made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pairs import PEOPLE, document
from tiny import PAPER, random_generator

from distilledprag.base.llm import greedy_texts
from distilledprag.baselines import AugmentedDocument, PragAdapters, PragSettings
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import (
    COMPRESSED,
    METHODS,
    MIXED,
    STATE_METHODS,
    Question,
    Setting,
    prepare_adapters,
    trained_methods,
)
from distilledprag.generators.compressed import CompressorSettings, StateCompressor
from distilledprag.generators.state import PlainPath, StateGenerator
from distilledprag.prompts import PromptBuilder


def asked(first: int) -> Question:
    """A question about one of two documents; the control's documents are those of the next question."""
    names = list(PEOPLE)
    own, others = (names[first + step : first + step + 2] for step in (0, 2))

    def augmented(name):
        city, work = PEOPLE[name]
        rewrite = f"{city} is the home of {name}, a {work}."
        return AugmentedDocument(document(name), rewrite, ((f"Where does {name} live?", city),))

    texts = [tuple(map(document, chosen)) for chosen in (own, others)]
    made = [tuple(map(augmented, chosen)) for chosen in (own, others)]
    return Question(f"Where does {own[0]} live?", (PEOPLE[own[0]][0],), *texts, *made)


def answers(setting: Setting, method: str, items: list[Question]) -> list[str]:
    prepare_adapters(setting, method, items)
    made = METHODS[method](setting, items)
    with torch.no_grad():
        return greedy_texts(setting.base, made.prompts, made.adapters, setting.prompts.end_of_turn_id, 8, made.states)


@pytest.fixture(scope="module")
def setting(tiny_base):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    generators = {
        "paper": random_generator(tiny_base, PAPER),
        "dyprag": random_generator(tiny_base, {"architecture": "dyprag", "alpha": 4}),
    }
    prag = PragAdapters(tiny_base, prompts, PragSettings(learning_rate=1e-2), "hash")
    a = torch.randn(128, tiny_base.model.config.intermediate_size, generator=torch.Generator().manual_seed(0))
    first_words = range(20, 148)  # any tokens can stand for numbered masks here
    made = Setting(tiny_base, prompts, generators, prag, StateGenerator(tiny_base, prompts, 1, PlainPath(1, first_words, a)))
    torch.manual_seed(0)
    compressor = StateCompressor(CompressorSettings(ratios=(2, 4, 8), layer=1, rank=2, decoder_rank=2), tiny_base).eval()
    made.compressors |= dict.fromkeys(COMPRESSED, compressor)
    return made


@pytest.fixture(scope="module")
def items():
    return [asked(0), asked(2)]


def test_the_contracts_methods_are_there():
    wanted = {"closed_book", "rag", "state", "state_plain", "state_chosen", "shuffled", "prag", "dyprag", "paper"}
    wanted |= {"state_r2", "state_r4", "state_r8"}
    assert wanted <= METHODS.keys()
    assert [name for name, method in METHODS.items() if method.needs is None] == ["closed_book", "rag"]
    assert {name for name, method in METHODS.items() if method.needs == "states"} == {
        *STATE_METHODS,
        "state_answer",
        "state_together",
    }


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_answers_a_batch_as_it_answers_each_question(setting, items, method):
    assert answers(setting, method, items) == [answers(setting, method, [item])[0] for item in items]


def test_mixed_rows_are_whole_where_all_sentences_are_chosen(setting, items):
    """Short passages are kept whole, so nothing is left to compress."""
    mixed, whole = METHODS[MIXED](setting, items), METHODS["state"](setting, items)
    assert mixed.prompts == whole.prompts
    for ours, theirs in zip(mixed.states, whole.states, strict=True):
        torch.testing.assert_close(ours.rows, theirs.rows)


def test_a_choice_that_knows_the_answer_sends_the_sentence_that_holds_it(setting, items):
    filling = " ".join(f"Nothing of note happened in the year {year}, as far as anyone knows." for year in range(1900, 1912))
    hidden = replace(
        items[0], text="What happened in 1905?", answers=("Zanzibar",), passages=(f"{filling} She went to Zanzibar.",)
    )
    (by_words,), (by_answer,) = (METHODS[name](setting, [hidden]).read for name in ("state_chosen", "state_answer"))
    assert "Zanzibar" not in by_words[0] and "Zanzibar" in by_answer[0]
    assert len(by_answer[0]) < len(filling)


def test_one_passage_has_the_same_rows_together_and_apart(setting, items):
    alone = [replace(one, passages=one.passages[:1]) for one in items]
    together, apart = METHODS["state_together"](setting, alone), METHODS["state"](setting, alone)
    for ours, theirs in zip(together.states, apart.states, strict=True):
        torch.testing.assert_close(ours.rows, theirs.rows, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", trained_methods())
def test_controls_and_combinations_differ_in_one_thing_only(setting, items, name):
    own, control, combined = (METHODS[method](setting, items) for method in (name, f"shuffled_{name}", f"rag_{name}"))
    assert own.prompts == control.prompts == [setting.prompts.build(i.text, i.passages).masked_ids for i in items]
    assert combined.prompts == METHODS["rag"](setting, items).prompts
    assert own.read == combined.read == [i.passages for i in items] and control.read == [i.other_passages for i in items]
    adapters, control, combined = own.adapters, control.adapters, combined.adapters
    key = next(iter(adapters.modules))
    same = [torch.equal(ours, theirs) for ours, theirs in zip(adapters.modules[key], combined.modules[key], strict=True)]
    assert all(same) and not torch.equal(adapters.modules[key][1], control.modules[key][1])
    following = METHODS[name](setting, items[1:]).adapters.modules[key][1]  # the control's documents are the next question's
    assert torch.allclose(control.modules[key][1][:1], following, atol=1e-5)


def test_the_papers_own_prompt_is_an_explicit_deviation(setting, items):
    own = replace(setting, prompt_variant={"prag": "question_only"})
    assert METHODS["prag"](own, items).prompts == METHODS["closed_book"](own, items).prompts
    assert METHODS["dyprag"](own, items).prompts == METHODS["dyprag"](setting, items).prompts


def test_a_method_without_what_it_needs_says_so(setting, items):
    bare = Setting(setting.base, setting.prompts)
    with pytest.raises(ConfigError, match="prepared base"):
        METHODS["state"](bare, items)
    for name in trained_methods():
        with pytest.raises(ConfigError, match=name):
            METHODS[name](bare, items)
    with pytest.raises(InputError, match="questions"):
        METHODS["prag"](setting, [replace(items[0], augmented=())])
