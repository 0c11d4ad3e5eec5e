"""Fit pairs pass; unfit ones are rejected for the right reason."""

from __future__ import annotations

import pytest

from distilledprag.synthesis.pairs import REASONS, QuestionAnswer, rejection_reason, same_answer
from distilledprag.synthesis.sources import Document

UNNAMED = Document("He was born in Millport in 1950 and directed the film Long Night.", title="Karl Asberg (director)")
NAMED = Document("Karl Asberg was born in Millport in 1950.", title="Karl Asberg (director)")

FIT = [
    "Where was Karl Asberg born?",
    "Which of Karl Asberg and Ann Tov was born first, and in what year was he born?",
    "What do bees make?",
    "After the passage of the Civil Rights Act, who was president?",
    "Who signed the document that ended the war between Veltria and Osk?",
    "What is the boiling point of water?",
    'Who directed "long night", and when did it appear?',
    "Napoleon was exiled where after he lost?",
    "哪一年卡尔出生?",
    "In which article of the constitution of Veltria is the king named?",
]


@pytest.mark.parametrize("question", FIT)
def test_a_question_that_stands_by_itself_passes(question):
    assert rejection_reason(QuestionAnswer(question=question, answer="Millport"), [NAMED]) is None


UNFIT = {
    "about_the_document": [
        "What is the passage about?",
        "According to the document, where was Karl Asberg born?",
        "In both texts, which city do Karl Asberg and Ann Tov share?",
        "Which person in document 2 is older than Karl Asberg?",
        "What does the article say about Karl Asberg?",
        "Where was the Karl Asberg described above born?",
    ],
    "needs_title": [
        "When was he born?",
        "He was born when?",
        "Where does the film take place?",
        "What is its population?",
        "Which of the two died first?",
        "When was this company founded?",
        "Who is the author's brother?",
    ],
    "empty_question": ["", " ? "],
}


@pytest.mark.parametrize("reason, question", [(reason, question) for reason, all_ in UNFIT.items() for question in all_])
def test_a_question_that_does_not_stand_by_itself_is_rejected(reason, question):
    assert rejection_reason(QuestionAnswer(question=question, answer="Millport"), [NAMED]) == reason


def test_a_name_that_only_the_title_gives_is_rejected():
    question = QuestionAnswer(question="Where was Karl Asberg born?", answer="Millport")
    assert rejection_reason(question, [UNNAMED]) == "needs_title"
    assert rejection_reason(question, [NAMED]) is None
    assert rejection_reason(QuestionAnswer(question="Who directed the film Long Night?", answer="Karl"), [UNNAMED]) is None
    assert rejection_reason(question, [UNNAMED, NAMED]) is None  # the other document says who is meant


@pytest.mark.parametrize(
    "answer", ["", " ", ".", "Unknown", "N/A", "Not mentioned in the document.", "It cannot be determined", "not specified",
               "The passage does not say", "No information is given"]
)  # fmt: skip
def test_an_answer_that_says_nothing_is_rejected(answer):
    assert rejection_reason(QuestionAnswer(question="Where was Karl Asberg born?", answer=answer), [NAMED]) == "empty_answer"


@pytest.mark.parametrize("answer", ["No", "none", "0", "A", "Not Guilty", "The Unknown Soldier", "米尔港"])
def test_a_short_or_odd_answer_is_an_answer(answer):
    assert rejection_reason(QuestionAnswer(question="Where was Karl Asberg born?", answer=answer), [NAMED]) is None


@pytest.mark.parametrize(
    "reply, answer, same",
    [
        ("Millport", "millport.", True),
        ("It is in Millport, Veltria.", "Millport", True),
        ("Port", "Millport", False),
        ("the 5th of May 1990", "5th May 1990", True),
        ("1991", "1990", False),
        ("Yes, it is.", "yes", True),
        ("No, yes was wrong", "yes", False),
        ("unknown", "no", False),
        ("A", "a", True),
        ("B", "A", False),
        ("", "Millport", False),
    ],
)
def test_answers_are_compared_by_what_they_say(reply, answer, same):
    assert same_answer(reply, answer) is same


def test_every_reason_is_explained():
    assert set(UNFIT) | {"empty_answer", "duplicate"} <= set(REASONS)
