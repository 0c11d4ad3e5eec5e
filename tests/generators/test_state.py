"""The state generator's memory of passages: what it keeps, and what it forgets."""

from __future__ import annotations

import pytest
import torch

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
    monkeypatch.setattr("distilledprag.generators.state.hidden_after", lambda *_, **__: pytest.fail("encoded again"))
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
