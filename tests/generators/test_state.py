"""The state generator's memory of passages: what it keeps, and what it forgets."""

from __future__ import annotations

import pytest
import torch

from distilledprag.base.llm import PassageEncoder
from distilledprag.generators.state import StateGenerator
from distilledprag.prompts import PromptBuilder

ANNA, BRAM = "Anna Tovberg lives in Oakport.", "Bram Keller lives in Dunburg."


@pytest.fixture
def generator(tiny_base):
    return StateGenerator(tiny_base, PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id), layer=1)


def test_a_passage_has_the_same_rows_alone_and_among_others(generator, tiny_base):
    together = generator.rows([ANNA, BRAM])
    fresh = StateGenerator(tiny_base, generator.prompts, layer=1)
    assert torch.allclose(fresh.rows([BRAM])[0], together[1], atol=1e-5)
    assert len(together[0]) == len(generator.prompts.document_ids(ANNA))


def test_passages_seen_before_are_not_encoded_again(generator, monkeypatch):
    first = generator.rows([ANNA, BRAM])
    monkeypatch.setattr(PassageEncoder, "states", lambda *_: pytest.fail("encoded again"))
    again = generator.rows([BRAM, ANNA])
    assert torch.equal(again[0], first[1]) and torch.equal(again[1], first[0])


def test_forgotten_passages_leave_no_states_in_memory(generator):
    rows = generator.rows([ANNA, BRAM])
    generator.rows([ANNA], layer=0)
    assert generator.cached_tokens == 2 * len(rows[0]) + len(rows[1])
    generator.forget([ANNA, "never seen"])
    assert generator.cached_tokens == len(rows[1])
    assert torch.allclose(generator.rows([ANNA])[0], rows[0], atol=1e-5)
    generator.forget([ANNA, BRAM])
    assert generator.cached_tokens == 0


def test_rounded_rows_are_the_passages_own_and_then_filler_that_says_nothing_of_it(generator):
    one, two = "Anna lives in Oakport.", "The vessel carries 412 passengers. It was built in 1987."
    plain, wide = generator.states([one, two]).rows, generator.states([one, two], round_to=64).rows
    first, second = (generator.prompts.document_length(text) for text in (one, two))
    assert (
        wide.shape[0] == 128 and torch.equal(wide[:first], plain[:first]) and torch.equal(wide[64 : 64 + second], plain[first:])
    )
    least = 64 - max(first, second)
    assert least > 3 and torch.equal(wide[first : first + least], wide[64 + second : 64 + second + least])
    part = "It was built in 1987."
    cut = generator.states(["", part], [one, two], round_to=64).rows
    count = generator.prompts.document_length(part)
    assert torch.equal(cut[:count], generator.states(["", part], [one, two]).rows) and len(cut) == 64  # an empty passage has none
    masked = generator.prompts.build("Where?", [one, two], round_to=64).masked_ids
    assert masked.count(generator.prompts.mask_token_id) == 128
