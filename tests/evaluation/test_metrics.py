"""EM, F1, precision and recall as the official scripts define them: values worked out by hand from their definitions."""

from __future__ import annotations

import pytest

from distilledprag.errors import InputError
from distilledprag.evaluation.metrics import (
    answer_recall_at_k,
    best_exact_match,
    best_token_scores,
    containment,
    exact_match,
    hotpotqa_scores,
    popqa_accuracy,
    recall_at_k,
    squad_scores,
)

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

# prediction, answer, exact match, HotpotQA's (f1, precision, recall), SQuAD's F1
CASES = [
    ("The Beatles", "Beatles", 1.0, ONE, 1.0),  # an article
    ("an apple a day", "the apple day", 1.0, ONE, 1.0),  # articles inside
    ("Theatre", "atre", 0.0, ZERO, 0.0),  # "the" inside of a word stays
    ("a-ha", "aha", 1.0, ONE, 1.0),  # punctuation goes first, so no article is left
    ("U.S.A.", "USA", 1.0, ONE, 1.0),
    ("$46,000.50", "4600050", 1.0, ONE, 1.0),
    ("rock 'n' roll", "rock n roll", 1.0, ONE, 1.0),
    ("well-known man", "well known man", 0.0, (2 / 5, 1 / 2, 1 / 3), 2 / 5),  # a hyphen joins, it does not split
    ("“Hamlet”", "Hamlet", 0.0, ZERO, 0.0),  # only ASCII punctuation is removed
    ("in Paris, France", "Paris", 0.0, (1 / 2, 1 / 3, 1.0), 1 / 2),
    ("new york new york", "new york", 0.0, (2 / 3, 1 / 2, 1.0), 2 / 3),  # words count as often as they are in both
    ("yes", "Yes.", 1.0, ONE, 1.0),
    ("yes it is", "yes", 0.0, ZERO, 1 / 2),  # HotpotQA: a yes counts only alone
    ("no", "no way", 0.0, ZERO, 2 / 3),
    ("noanswer", "noanswer given", 0.0, ZERO, 2 / 3),
    ("no answer", "no answer given", 0.0, (4 / 5, 1.0, 2 / 3), 4 / 5),  # two words, not the special one
    ("no", "yes", 0.0, ZERO, 0.0),
    ("Zürich", "zürich", 1.0, ONE, 1.0),
    ("Zu\u0308rich", "Z\u00fcrich", 0.0, ZERO, 0.0),  # decomposed and composed: the scripts do not normalise Unicode
    ("STRASSE", "straße", 0.0, ZERO, 0.0),  # lower case, not case folding
    ("東京", "東京", 1.0, ONE, 1.0),
    ("two\u00a0words\there", "two words here", 1.0, ONE, 1.0),  # any white space separates
    ("", "", 1.0, ZERO, 1.0),  # no words: equal, nothing in common
    ("the", "a", 1.0, ZERO, 1.0),
    ("", "Paris", 0.0, ZERO, 0.0),
    ("Paris", "...", 0.0, ZERO, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("prediction, answer, exact, hotpotqa, squad", CASES)
def test_scores_equal_the_official_definitions(prediction, answer, exact, hotpotqa, squad):
    assert exact_match(prediction, answer) == exact
    assert hotpotqa_scores(prediction, answer) == pytest.approx(hotpotqa)
    assert squad_scores(prediction, answer).f1 == pytest.approx(squad)


@pytest.mark.parametrize("prediction, answer", [case[:2] for case in CASES])
def test_exchanging_prediction_and_answer_exchanges_precision_and_recall(prediction, answer):
    for scores in (hotpotqa_scores, squad_scores):
        f1, precision, recall = scores(prediction, answer)
        assert scores(answer, prediction) == pytest.approx((f1, recall, precision))


def test_with_aliases_each_number_is_the_best_by_itself():
    answers = ["New York City", "Paris the city of light and love", "NYC"]
    assert best_exact_match("the NYC", answers) == 1.0 and best_exact_match("York", answers) == 0.0
    # against the first: precision 2/3, recall 2/3; against the second: precision 1, recall 3/6
    found = best_token_scores("Paris city light", ["Paris city hall", "Paris the city of light and love"])
    assert found == pytest.approx((2 / 3, 1.0, 2 / 3))
    assert best_token_scores("yes it is", ["yes", "it is"]).f1 == pytest.approx(4 / 5)
    assert best_token_scores("yes it is", ["yes"], squad_scores).f1 == pytest.approx(1 / 2)


@pytest.mark.parametrize("prediction, answers, whole_words, substring", [
    ("He was born in Paris, France.", ["Paris"], 1.0, 1.0),
    ("He comes from the north", ["no"], 0.0, 1.0),  # inside of a word
    ("a politician", ["Politician"], 1.0, 1.0),
    ("POLITICIAN", ["politician"], 1.0, 0.0),  # PopQA's script tries three spellings only
    ("the New   York Times", ["new york"], 1.0, 0.0),
    ("York, New", ["New York"], 0.0, 0.0),
    ("an actor", ["film director", "actor"], 1.0, 1.0),
    ("", ["actor"], 0.0, 0.0),
    ("actor", ["The"], 0.0, 0.0),  # an answer without words is not in everything
])  # fmt: skip
def test_containment(prediction, answers, whole_words, substring):
    assert containment(prediction, answers) == whole_words
    assert popqa_accuracy(prediction, answers) == substring


def test_recall_counts_each_gold_title_once_among_the_first_k():
    retrieved = ["A", "B", "B", "C"]
    assert [recall_at_k(retrieved, ["B", "C"], k) for k in (1, 2, 3, 4, 9)] == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert recall_at_k(retrieved, ["B", "B"], 2) == 1.0


def test_answer_recall_asks_whether_a_passage_holds_an_answer():
    retrieved = ["A town in Norway.", "Its mayor is Anna Berg, a teacher."]
    assert [answer_recall_at_k(retrieved, ["anna berg", "..."], k) for k in (1, 2)] == [0.0, 1.0]
    assert answer_recall_at_k(["", "the"], ["the"], 2) == 0.0


@pytest.mark.parametrize("call, message", [
    (lambda: best_exact_match("x", []), "at least one right answer"),
    (lambda: best_token_scores("x", "Paris"), "not 'Paris'"),
    (lambda: containment("x", ()), "at least one right answer"),
    (lambda: recall_at_k(["A"], ["A"], 0), "at least 1"),
    (lambda: recall_at_k(["A"], [], 1), "answer_recall_at_k"),
    (lambda: answer_recall_at_k(["A"], ["A"], 0), "at least 1"),
])  # fmt: skip
def test_what_cannot_be_scored_says_why(call, message):
    with pytest.raises(InputError, match=message):
        call()
