"""Rows chosen by the question."""

from __future__ import annotations

import numpy as np
import pytest

from distilledprag.errors import InputError
from distilledprag.generators.sentence_choice import MOST, Sentence, SentenceChoice, calibrated, choose

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


PARTS = [Sentence(0, number, "", 50) for number in range(10)]  # 500 rows
HALF_SURE = [(0.3, 0.5), (0.5, 0.9)]


def test_a_question_whose_sentence_stands_out_needs_fewer_rows_than_one_that_several_could_answer():
    clear, unclear = np.array([0.0] * 9 + [9.0]), np.array([0.0] * 4 + [3.0] * 6)
    assert choose(clear, PARTS, 0.3, HALF_SURE) == {9}
    assert choose(unclear, PARTS, 0.3, HALF_SURE) == {4, 5, 6, 7}  # four sixths of the probability; three would just miss a half


def test_a_share_is_never_exceeded_by_more_than_its_double():
    kept = choose(np.zeros(10), PARTS, 0.3, [(0.3, 0.99)])
    assert sum(PARTS[place].size for place in kept) == MOST * 0.3 * 500


def test_between_two_shares_the_certainty_is_interpolated():
    scores = np.log(np.array([0.45, 0.2, 0.2, 0.08, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01]))
    assert [len(choose(scores, PARTS, share, HALF_SURE)) for share in (0.3, 0.4, 0.5)] == [2, 3, 4]


def test_calibrated_certainties_keep_each_share_of_all_rows_and_little_less():
    draw = np.random.default_rng(0)
    examples = [(draw.normal(0, 1.5, size), draw.integers(5, 60, size).tolist()) for size in draw.integers(8, 30, 200)]
    certainty = calibrated(examples)
    assert [sure for _, sure in certainty] == sorted(sure for _, sure in certainty)
    for share in (0.3, 0.5, 0.8):
        kept = rows = 0
        for scores, sizes in examples:
            parts = [Sentence(0, number, "", size) for number, size in enumerate(sizes)]
            kept += sum(sizes[place] for place in choose(scores, parts, share, certainty))
            rows += sum(sizes)
        assert share - 0.02 < kept / rows <= share
