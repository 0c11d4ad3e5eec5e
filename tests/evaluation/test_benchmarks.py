"""Loaders of benchmark files in their owners' formats: what they read, and what they say about what they cannot read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distilledprag.documents import Passage
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmark_files import BenchmarkQuestion, first_per_subtask
from distilledprag.evaluation.benchmarks import (
    LOADERS,
    AugmentedPassage,
    load_augmented_passages,
    load_benchmark,
    load_complex_web_questions,
    load_data_aug,
    load_popqa,
    load_rows,
    load_two_wiki,
    load_xquad,
)

HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "yes",
    "question": "Were Anna Berg and Ola Lund of the same nationality?",
    "supporting_facts": [["Anna Berg", 0], ["Ola Lund", 1], ["Anna Berg", 1]],
    "context": [
        ["Oslo", ["Oslo is a town.", " It is old."]],
        ["Anna Berg", ["Anna Berg (born 1966) is Norwegian.", " She\u00a0writes."]],
        ["Nobody", []],
        ["Ola Lund", ["Ola Lund paints."]],
    ],
    "type": "comparison",
    "level": "hard",
}
TWO_WIKI = {
    **HOTPOT,
    "_id": "8813f87c0bdd11eba7f7acde48001122",
    "type": "bridge_comparison",
    "evidences": [["Anna Berg", "country", "Norway"]],
    "answer": "Norway",
    "answer_id": "Q20",
}
CWQ = {
    "ID": "WebQTrn-1_a",
    "question": "Which capital lies on the Spree?",
    "answers": [
        {"answer": "Berlin", "aliases": ["Berlin, Germany", "Berlin"], "answer_id": "m.0156q"},
        {"answer": None, "aliases": ["Spree-Athen"], "answer_id": "m.0"},
    ],
    "composition_answer": "germany",
    "compositionality_type": "conjunction",
}
POPQA_HEADER = (
    "id\tsubj\tprop\tobj\tsubj_id\tprop_id\tobj_id\ts_aliases\to_aliases\ts_uri\to_uri\ts_wiki_title\to_wiki_title\t"
    "s_pop\to_pop\tquestion\tpossible_answers"
)
POPQA_ROW = (
    '4222362\tGeorge Rankin\toccupation\tpolitician\t1\t22\t2\t"[""G. R.""]"\t[]\thttp://a\thttp://b\tGeorge Rankin\tPolitician\t'
    '142\t25692\tWhat is George Rankin\'s occupation?\t"[""politician"", ""political leader"", ""pol""]"'
)
POPQA_JSON = {
    "id": 7,
    "obj": "actor",
    "question": "What does she do?",
    "possible_answers": '["performer", "actor"]',
    "paragraphs": [
        {"title": "Other", "text": "Something else.", "is_supporting": False},
        {"title": "Her", "text": "She acts.", "is_supporting": True},
    ],
}
AUGMENTED = {
    "qid": "a1",
    "test_id": 0,
    "question": "Where does Anna live?",
    "answer": ["Oslo", "Christiania"],
    "golden_passages": ["Anna lives in Oslo."],
    "type": "inference",
    "passages": ["Anna lives  in Oslo.", "Oslo is old."],
    "augment": [
        {
            "pid": number,
            "passage": text,
            "llama3.2-1b-instruct_rewrite": f"In other words: {text}",
            "llama3.2-1b-instruct_qa": [{"question": "When?", "answer": 1048, "full_answer": "In 1048."}],
        }
        for number, text in enumerate(["Anna lives  in Oslo.", "Oslo is old."])
    ],
}
CONTEXT = "Anna Berg was born in Oslo. Oslo is old."
XQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Anna_Berg",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "q1", "question": "Where?", "answers": [{"text": "Oslo", "answer_start": 22}]},
                        {"id": "q2", "question": "What is old?", "answers": [{"text": "Oslo", "answer_start": 28}] * 2},
                    ],
                }
            ],
        }
    ],
}


def write(folder: Path, name: str, content: object) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def changed(entry: dict, **fields: object) -> dict:
    return {key: value for key, value in {**entry, **fields}.items() if value is not ...}


def test_hotpotqa(tmp_path):
    file = write(tmp_path, "hotpot_dev_distractor_v1.json", [HOTPOT])
    assert load_benchmark("hotpotqa", file) == [
        BenchmarkQuestion(
            id="5a8b57f25542995d1e6f1371",
            benchmark="hotpotqa",
            subtask="comparison",
            question="Were Anna Berg and Ola Lund of the same nationality?",
            answers=("yes",),
            passages=(
                Passage("Oslo is a town. It is old.", str(file), "Oslo", 0),
                Passage("Anna Berg (born 1966) is Norwegian. She writes.", str(file), "Anna Berg", 1),
                Passage("Ola Lund paints.", str(file), "Ola Lund", 3),
            ),
            gold_titles=("Anna Berg", "Ola Lund"),
            supporting_facts=(("Anna Berg", 0), ("Ola Lund", 1), ("Anna Berg", 1)),
        )
    ]


def test_two_wiki_takes_aliases_and_demonyms_by_the_answers_id(tmp_path):
    file = write(tmp_path, "dev.json", [TWO_WIKI, changed(TWO_WIKI, _id="2", type="inference", answer_id=None)])
    lines = [
        {"Q_id": "Q20", "aliases": ["Norway", "NO"], "demonyms": ["Norwegian"]},
        {"Q_id": "Q1", "aliases": [], "demonyms": []},
    ]
    names = write(tmp_path, "id_aliases.json", "\n".join(map(json.dumps, lines)) + "\n")
    assert [question.answers for question in load_two_wiki(file)] == [("Norway",), ("Norway",)]
    with_aliases = load_two_wiki(file, names)
    assert [question.answers for question in with_aliases] == [("Norway", "NO", "Norwegian"), ("Norway",)]
    assert [question.subtask for question in with_aliases] == ["bridge_comparison", "inference"]


def test_popqa_as_published_has_no_passages(tmp_path):
    (found,) = load_popqa(write(tmp_path, "popQA.tsv", f"{POPQA_HEADER}\n{POPQA_ROW}\n"))
    assert found == BenchmarkQuestion(
        id="4222362",
        benchmark="popqa",
        subtask="total",
        question="What is George Rankin's occupation?",
        answers=("politician", "political leader", "pol"),
        gold_titles=("George Rankin",),
    )


def test_popqa_with_paragraphs(tmp_path):
    file = write(tmp_path, "popqa_300.json", [POPQA_JSON])
    (found,) = load_popqa(file)
    assert found.answers == ("actor", "performer") and found.gold_titles == ("Her",) and found.id == "7"
    assert found.passages == (Passage("Something else.", str(file), "Other", 0), Passage("She acts.", str(file), "Her", 1))


def test_complex_web_questions_take_all_answers_and_aliases(tmp_path):
    (found,) = load_complex_web_questions(write(tmp_path, "ComplexWebQuestions_dev.json", [CWQ]))
    answers = ("Berlin", "Berlin, Germany", "Spree-Athen")
    assert found == BenchmarkQuestion("WebQTrn-1_a", "complexwebquestions", "total", "Which capital lies on the Spree?", answers)


def test_complex_web_questions_without_a_named_answer_are_left_out_only_on_request(tmp_path):
    unnamed = changed(CWQ, ID="x", answers=[{"answer": None, "aliases": [], "answer_id": "m.1"}])
    file = write(tmp_path, "dev.json", [CWQ, unnamed])
    with pytest.raises(InputError, match=r"entry 2, has no answer with a name .*skip_unnamed=True"):
        load_complex_web_questions(file)
    assert [question.id for question in load_complex_web_questions(file, skip_unnamed=True)] == ["WebQTrn-1_a"]


def test_xquad(tmp_path):
    file = write(tmp_path, "xquad.en.json", XQUAD)
    first, second = load_xquad(file)
    assert first.passages == second.passages == (Passage(CONTEXT, str(file), "Anna Berg", 0),)
    assert (first.id, first.answers, first.gold_titles) == ("q1", ("Oslo",), ("Anna Berg",)) and second.answers == ("Oslo",)


def test_data_aug_folder_gives_subtasks_and_passes_total_over(tmp_path):
    folder = tmp_path / "2wikimultihopqa" / "llama3.2-1b-instruct"
    file = write(folder, "inference.json", [AUGMENTED])
    write(folder, "comparison.json", [changed(AUGMENTED, type="comparison", answer="yes")])
    write(folder, "total.json", [changed(AUGMENTED, passages=..., augment=...)])
    comparison, inference = load_data_aug(folder)
    assert comparison.subtask == "comparison" and comparison.answers == ("yes",)
    assert inference == BenchmarkQuestion(
        id="a1",
        benchmark="2wikimultihopqa",
        subtask="inference",
        question="Where does Anna live?",
        answers=("Oslo", "Christiania"),
        passages=(Passage("Anna lives in Oslo.", str(file), index=0), Passage("Oslo is old.", str(file), index=1)),
    )
    assert load_data_aug(file) == [inference]


def test_data_aug_of_a_dataset_without_subtasks_is_its_total(tmp_path):
    folder = tmp_path / "popqa" / "llama3-8b-instruct"
    write(folder, "total.json", [changed(AUGMENTED, qid=..., type=...)])
    (found,) = load_data_aug(folder)
    assert (found.benchmark, found.subtask, found.id) == ("popqa", "total", "0")


def test_data_aug_gives_rewrites_and_pairs_of_each_passage(tmp_path):
    file = write(tmp_path, "a/b/inference.json", [AUGMENTED])
    text, pairs = "Oslo is old.", (("When?", "1048", "In 1048."),)
    found = load_augmented_passages(file)["inference", "a1"]
    assert len(found) == 2 and found[1] == AugmentedPassage(text, f"In other words: {text}", pairs)


def test_rows_are_json_lines_with_their_passages(tmp_path):
    rows = [
        {"documents": [{"title": "Anna", "text": "She lives in Oslo."}], "question": " Where? ", "answers": ["Oslo", " "]},
        {"documents": [{"text": " "}], "question": "Where?", "answers": ["Oslo"], "type": "bridge"},
        {"documents": [{"text": "Oslo is old."}], "question": "What is old?", "answers": ["Oslo"], "type": "bridge"},
    ]
    file = write(tmp_path, "mine.v1.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    first, second = load_rows(file)  # the row without text is left out
    assert first == BenchmarkQuestion(
        "1", "mine", "unnamed", "Where?", ("Oslo",), (Passage("Anna\nShe lives in Oslo.", str(file)),)
    )
    assert (second.id, second.subtask) == ("3", "bridge")
    for content, message in ((None, "does not exist"), ("[{", "line 1 is not JSON"), ("", "holds no questions")):
        with pytest.raises(InputError, match=message):
            load_rows(tmp_path / "none.jsonl" if content is None else write(tmp_path, "file.jsonl", content))


def test_the_first_questions_of_each_subtask_are_taken_in_order(tmp_path):
    types = ["bridge", "comparison", "bridge", "bridge", "comparison"]
    entries = [changed(HOTPOT, _id=str(number), type=name) for number, name in enumerate(types)]
    questions = load_benchmark("hotpotqa", write(tmp_path, "dev.json", entries))
    assert [question.id for question in first_per_subtask(questions, 2)] == ["0", "1", "2", "4"]
    assert first_per_subtask(questions) == questions
    other = [replace(question, benchmark="other") for question in questions]
    assert len(first_per_subtask(questions + other, 1)) == 4
    with pytest.raises(InputError, match="at least 1"):
        first_per_subtask(questions, 0)


@pytest.mark.parametrize("name, entry, message", [
    ("hotpotqa", changed(HOTPOT, answer=...), r'entry 2, has no "answer"; get hotpot_dev'),
    ("hotpotqa", changed(HOTPOT, answer=5), r'entry 2, has a number as "answer"'),
    ("hotpotqa", changed(HOTPOT, question="  "), r'entry 2, has an empty "question"'),
    ("hotpotqa", changed(HOTPOT, type="inference"), r'"inference", which is none of bridge, comparison'),
    ("hotpotqa", changed(HOTPOT, context={}), r'has an object as "context", not a list'),
    ("hotpotqa", changed(HOTPOT, context=[["T", "text"]]), r'paragraph 1 of "context"'),
    ("hotpotqa", changed(HOTPOT, supporting_facts=[["T", 0], ["T", -1]]), "supporting fact 2"),
    ("hotpotqa", changed(HOTPOT, _id="0"), r'entry 2, has the id "0" of entry 1'),
    ("hotpotqa", "text", r"entry 2, is a text, not an object"),
    ("2wikimultihopqa", changed(TWO_WIKI, type="bridge"), r'"bridge", which is none of comparison, bridge_comparison'),
    ("complexwebquestions", changed(CWQ, answers=[{"answer": "x"}]), r'entry 2, answer 1, has no "aliases"'),
    ("complexwebquestions", changed(CWQ, answers=[{"answer": 5, "aliases": []}]), r'answer 1, has a number as "answer"'),
    ("complexwebquestions", changed(CWQ, answers=[{"answer": "x", "aliases": [None]}]), r'null in "aliases"'),
    ("popqa", changed(POPQA_JSON, possible_answers="['a']"), r'"possible_answers" that are not a JSON list'),
    ("popqa", changed(POPQA_JSON, possible_answers='"a"'), r'has a text as "possible_answers", not a list'),
    ("popqa", changed(POPQA_JSON, paragraphs=[{"title": "T"}]), r'paragraph 1, has no "text"'),
    ("data_aug", changed(AUGMENTED, type="bridge"), r'"bridge", which is none of dev'),
    ("data_aug", changed(AUGMENTED, type="dev", passages=[]), "entry 2, has no passages"),
    ("data_aug", changed(AUGMENTED, type="dev", passages=["a", ""]), "an empty one"),
    ("data_aug", changed(AUGMENTED, type="dev", answer=[" "]), r'entry 2, has an empty "answer"'),
])  # fmt: skip
def test_a_wrong_entry_is_named_with_what_is_wrong(tmp_path, name, entry, message):
    good = {"hotpotqa": HOTPOT, "2wikimultihopqa": TWO_WIKI, "complexwebquestions": CWQ, "popqa": POPQA_JSON}
    keys = {"complexwebquestions": {"ID": "0"}, "popqa": {"id": 0}, "data_aug": {"qid": "0", "type": "dev"}}
    first = changed(good.get(name, AUGMENTED), **keys.get(name, {"_id": "0"}))
    file = write(tmp_path, "dev.json", [first, entry])
    with pytest.raises(InputError, match=message) as caught:
        load_benchmark(name, file)
    assert str(caught.value).startswith(f"{file}, entry 2,")


@pytest.mark.parametrize("name", sorted(LOADERS.keys() - {"rows"}))
@pytest.mark.parametrize("content, message", [
    (None, "does not exist"),
    ("[{", "is not JSON"),
    ("[]", "no questions|not an object"),
    ('{"data": []}', "no questions|not a list of questions"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_by_every_loader(tmp_path, name, content, message):
    file = tmp_path / "file.json" if content is None else write(tmp_path, "file.json", content)
    with pytest.raises(InputError, match=message):
        load_benchmark(name, file)


@pytest.mark.parametrize("content, message", [
    ("id\tquestion\n1\tWho?\n", r"line 1 does not name the column obj, s_wiki_title, possible_answers"),
    (f"{POPQA_HEADER}\n", "holds no questions"),
    (f"{POPQA_HEADER}\n{POPQA_ROW}\n1\t2\n", "line 3, has 2 columns in place of 17"),
    (f'{POPQA_HEADER}\n{POPQA_ROW}\n"1\t', "line 3 cannot be read"),
    (f"{POPQA_HEADER}\n{POPQA_ROW}\n{POPQA_ROW}\n", 'entry 2, has the id "4222362" of entry 1'),
])  # fmt: skip
def test_a_wrong_line_of_popqa_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load_popqa(write(tmp_path, "popQA.tsv", content))


@pytest.mark.parametrize("old, new, message", [
    ('"answer_start": 22', '"answer_start": 21', "article 1, paragraph 1, question 1, answer 1, does not stand at character 21"),
    ('"answers": [{"text": "Oslo", "answer_start": 22}]', '"answers": []', "question 1, has no answers"),
    ('"qas"', '"questions"', 'article 1, paragraph 1, has no "qas"'),
    ('"q2"', '"q1"', 'has the id "q1" of entry 1'),
])  # fmt: skip
def test_a_wrong_question_of_xquad_is_named(tmp_path, old, new, message):
    content = json.dumps(XQUAD)
    assert old in content
    with pytest.raises(InputError, match=message):
        load_xquad(write(tmp_path, "xquad.en.json", content.replace(old, new)))


@pytest.mark.parametrize("change, message", [
    ({"augment": AUGMENTED["augment"][:1]}, 'other passages in "augment"'),
    ({"augment": [{"passage": "x", "m_qa": []}]}, 'has 0 fields "<model>_rewrite"'),
    ({"augment": [{"passage": "x", "m_rewrite": "y", "m_qa": [{"question": "?"}]}]}, 'pair 1, has no "answer"'),
])  # fmt: skip
def test_a_wrong_augmentation_is_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_augmented_passages(write(tmp_path, "a/b/inference.json", [changed(AUGMENTED, **change)]))


def test_aliases_that_cannot_be_read_are_named(tmp_path):
    file = write(tmp_path, "dev.json", [TWO_WIKI])
    with pytest.raises(InputError, match="line 1 is not JSON"):
        load_two_wiki(file, write(tmp_path, "id_aliases.json", "[{\n"))
    with pytest.raises(InputError, match=r'line 1 has no "demonyms"; get id_aliases\.json'):
        load_two_wiki(file, write(tmp_path, "id_aliases.json", '{"Q_id": "Q20", "aliases": []}\n'))


def test_an_unknown_benchmark_is_told_the_known_ones(tmp_path):
    with pytest.raises(InputError, match='no benchmark "squad"; choose one of 2wikimultihopqa, hotpotqa'):
        load_benchmark("squad", tmp_path)
