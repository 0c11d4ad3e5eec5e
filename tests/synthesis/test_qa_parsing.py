"""Pairs come out of damaged replies; nothing that an LLM can write raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilledprag.synthesis.pairs import QuestionAnswer, parse_pairs, same_answer, without_reasoning

A = {"question": "Where is Velkor based?", "answer": "Millport", "full_answer": "Velkor is based in Millport."}
B = {"question": "Who runs Velkor, and since when?", "answer": "Ann {CEO}, since 1990", "full_answer": "Ann runs it."}
WHOLE = json.dumps({"pairs": [A, B]})
EXPECTED = [QuestionAnswer(**A), QuestionAnswer(**B)]

DAMAGE = {
    "as asked": WHOLE,
    "indented": json.dumps({"pairs": [A, B]}, indent=2),
    "fenced": f"```json\n{WHOLE}\n```",
    "fence that never ends": f"```\n{WHOLE}",
    "text around": f"Sure! Here are the pairs:\n{WHOLE}\nI hope {{this}} helps.",
    "thinking before": f'<think>Maybe {{"question": "no", "answer": "no"}}?</think>{WHOLE}',
    "thinking without an opening tag": f'Maybe {{"question": "no", "answer": "no"}}?</think>\n{WHOLE}',
    "thinking in brackets": f'[THINK]{{"question": "no", "answer": "no"}}[/THINK]{WHOLE}',
    "two ends of thinking": f'{{"question": "no", "answer": "no"}}</think> {{"question": "not", "answer": "x"}}</think>{WHOLE}',
    "channels": f'<|channel|>analysis<|message|>{{"question": "no"}}<|end|><|channel|>final<|message|>{WHOLE}<|return|>',
    "bare list": json.dumps([A, B]),
    "one object a line": f"{json.dumps(A)}\n{json.dumps(B)}",
    "numbered objects": f"1. {json.dumps(A)}\n2. {json.dumps(B)}",
    "another wrapper": json.dumps({"qa_pairs": [A, B]}),
    "trailing commas": WHOLE.replace("}]}", ",},],}").replace('"}, ', '",}, '),
    "missing brackets at the end": WHOLE[:-2],
    "python literal": repr({"pairs": [A, B]}),
    "capital keys": WHOLE.replace('"question"', '"Question"').replace('"full_answer"', '"Full Answer"'),
    "short keys": WHOLE.replace('"question"', '"q"').replace('"answer"', '"a"'),
    "camel case": WHOLE.replace("full_answer", "fullAnswer"),
    "line breaks in strings": WHOLE.replace("Where is", "Where\n is"),
    "extra fields": WHOLE.replace('"answer":', '"difficulty": 3, "answer":'),
    "curly quotes": WHOLE.replace('"', "”"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_usual_damage_is_repaired(damage):
    parsed = parse_pairs(DAMAGE[damage])
    assert parsed.pairs == EXPECTED and not parsed.malformed


def test_commas_inside_strings_stay():
    pair = {"question": "Which list ends in ,] or ,}?", "answer": "x,]", "full_answer": "y,}"}
    assert parse_pairs(json.dumps([pair]).replace("}]", "},]")).pairs == [QuestionAnswer(**pair)]


def test_a_missing_full_answer_is_the_answer():
    assert parse_pairs('[{"question": "Where?", "answer": "Here"}]').pairs[0].full_answer == "Here"
    assert parse_pairs('[{"question": "Where?", "answer": "Here", "full_answer": null}]').pairs[0].full_answer == "Here"


@pytest.mark.parametrize("value, text", [(1999, "1999"), (2.5, "2.5"), (True, "yes"), (["a", 2], "a, 2"), (None, "")])
def test_answers_that_are_no_text_become_text(value, text):
    assert parse_pairs(json.dumps({"pairs": [{"question": "What?", "answer": value}]})).pairs[0].answer == text


def test_what_cannot_be_a_pair_is_reported_and_its_neighbours_kept():
    parsed = parse_pairs(json.dumps({"pairs": [A, {"question": {"deep": 1}, "answer": "x"}, "words", {"answer": "x"}]}))
    assert parsed.pairs == EXPECTED[:1]
    assert [what.split(":")[0] for what in parsed.malformed] == ["question", "pair", "question"]


@pytest.mark.parametrize("text, what", [
    (f"<think>{WHOLE}", "unfinished"), (f"<|channel|>analysis<|message|>{WHOLE}", "unfinished"),
    (f"{WHOLE}</think>", "unopened"), (f"<think>{WHOLE}</think>", "removed"),
])  # fmt: skip
def test_a_draft_in_reasoning_that_nothing_follows_is_no_pair(text, what):
    assert not parse_pairs(text).pairs and without_reasoning(text)[1] == what


def test_reasoning_does_not_count_as_the_answer_when_pairs_are_verified():
    assert not same_answer("Perhaps Millport, perhaps not.</think>unknown", "Millport")
    assert same_answer("Hm, Oakport?</think>Millport", "Millport")


@pytest.mark.parametrize("text", ["", "I cannot do that.", "{", '{"pairs": []}', '{"pairs": "none"}', "[" * 5000, '{"a":' * 500])
def test_a_reply_without_pairs_gives_nothing(text):
    parsed = parse_pairs(text)
    assert not parsed.pairs and not parsed.malformed


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_reply_keeps_the_whole_pairs_before_the_cut(length):
    whole = sum(length >= WHOLE.index(json.dumps(pair)) + len(json.dumps(pair)) for pair in (A, B))
    assert parse_pairs(WHOLE[:length]).pairs == EXPECTED[:whole]


# No deadline: how fast a busy machine is says nothing about the parser.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.text())
def test_no_text_raises(text):
    parse_pairs(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["pairs", "question", "answer", "full_answer", "q"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@unhurried
@given(VALUES)
def test_no_json_raises(value):
    parse_pairs(json.dumps(value))
