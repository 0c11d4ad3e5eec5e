"""Rows chosen by the question."""

from __future__ import annotations

import pytest

from distilledprag.errors import InputError
from distilledprag.generators.sentence_choice import SentenceChoice

LONG = (
    "The committee met in the town hall on Monday evening. Nobody had read the report about the harbour before. "
    "Clara Marsen had studied in Ashford before she moved to the city. The rent of the warehouse is $1,249.50 a month. "
    "It has to be paid on the first day of every month by the company. The weather was cold and the windows were open."
)


def words(text: str) -> int:
    return len(text.split())


BY_WORDS = SentenceChoice(words)


def test_the_sentence_with_the_questions_words_is_kept_in_place():
    (kept,) = BY_WORDS.chosen("How much is the rent of the warehouse?", [LONG * 2], 0.4)
    assert "$1,249.50" in kept and words(kept) < 0.6 * words(LONG * 2)
    positions = [LONG.find(part) for part in kept.split(". ")[:1]]
    assert positions[0] >= 0


def test_short_passages_go_whole():
    assert BY_WORDS.chosen("Who?", [LONG[:200]], 0.1) == [LONG[:200]]


def test_a_passage_without_chosen_sentences_keeps_its_number():
    kept = BY_WORDS.chosen("Where did Clara Marsen study?", ["Nothing of it matters here at all. " * 15, LONG], 0.3)
    assert len(kept) == 2 and "Ashford" in kept[1]


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_must_be_positive(rows):
    with pytest.raises(InputError, match="share up to 1"):
        BY_WORDS.chosen("Who?", [LONG], rows)


def test_a_number_of_rows_is_a_bound():
    (kept,) = BY_WORDS.chosen("How much is the rent?", [LONG * 3], 70)
    assert words(kept) <= 70
