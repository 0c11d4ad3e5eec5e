"""`dprag evaluate RECIPE`: a record per question, a run that survives a kill, a summary of what was measured."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from processes import Forked
from tiny import PAPER, random_generator

from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.metrics import token_f1
from distilledprag.evaluation.questions import load_questions, with_others
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.evaluation.runner import Evaluation, batches, evaluate
from distilledprag.journal import read_journal
from distilledprag.recipes import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "evaluation"
PEOPLE = [("Anna Tovberg", "Oakport"), ("Bram Keller", "Dunburg"), ("Carla Rossi", "Millport"), ("Dov Peretz", "Ashford")]


def popqa(folder: Path) -> Path:
    """A made-up file in the format of PopQA with passages."""
    rows = []
    for number, (name, city) in enumerate(PEOPLE):
        other = PEOPLE[number - 1]
        paragraphs = [
            {"title": other[0], "text": f"{other[0]} was born in {other[1]}.", "is_supporting": False},
            {"title": name, "text": f"{name} was born in {city}.", "is_supporting": True},
        ]
        question = f"In what city was {name} born?"
        row = {"id": number, "obj": city, "s_wiki_title": name, "question": question, "possible_answers": json.dumps([city])}
        rows.append({**row, "paragraphs": paragraphs})
    file = folder / "popqa.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture
def values(tmp_path, tiny_base_folder, tiny_generator_folder):
    return {
        "output": str(tmp_path / "run"),
        "base": str(tiny_base_folder),
        "data": {"source": "benchmark", "name": "popqa", "file": str(popqa(tmp_path))},
        "top_k": 1,
        "methods": ["closed_book", "rag", "paper", "shuffled_paper"],
        "checkpoints": {"paper": str(tiny_generator_folder)},
        "max_new_tokens": 4,
    }


def records(folder) -> list[dict]:
    return list(read_journal(Path(folder) / "questions.jsonl"))


def without_seconds(found: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if not key.endswith("seconds")} for record in found]


def test_a_run_writes_a_record_per_question_and_method_and_a_summary(values):
    recipe = EvaluationRecipe(**values)
    summary = evaluate(recipe)
    found = records(recipe.output)
    assert [(r["method"], r["id"]) for r in found] == [(m, str(n)) for m in recipe.methods for n in range(4)]
    assert json.loads((recipe.output / "summary.json").read_text()) == json.loads(json.dumps(summary, default=str))
    assert summary["retrieval"] == {"k": 1, "answer_recall": {"mean": 1.0, "n": 4}, "title_recall": {"mean": 1.0, "n": 4}}
    assert {"versions", "hardware", "checkpoints", "base", "recipe"} <= summary["config"].keys()
    for record in found:
        assert record["scores"]["f1"] == pytest.approx(token_f1(record["text"], PEOPLE[int(record["id"])][1]))
        assert record["answer_tokens"] <= 4 and record["seconds"] >= record["prepare_seconds"] >= 0 <= record["retrieve_seconds"]
        assert len(record["passages"]) == (record["method"] != "closed_book")
    rag, ours, control = ([r for r in found if r["method"] == m] for m in ("rag", "paper", "shuffled_paper"))
    assert [r["prompt"] for r in ours] == [r["prompt"] for r in control] != [r["prompt"] for r in rag]
    assert [r["prompt_tokens"] for r in ours] == [r["prompt_tokens"] for r in rag]
    assert all(r["adapter_bytes"] > 0 and r["rows"] == 2 for r in ours) and not any(r["adapter_bytes"] for r in rag)
    mean = sum(record["scores"]["f1"] for record in ours) / 4
    assert summary["scores"]["paper"]["all"]["f1"]["mean"] == pytest.approx(mean)
    assert len(summary["comparisons"]) == 6


def test_no_document_text_is_in_the_records(values):
    recipe = EvaluationRecipe(**values)
    evaluate(recipe)
    written = (recipe.output / "questions.jsonl").read_text()
    assert not any(f"{name} was born" in written for name, _ in PEOPLE)


def evaluate_values(values):
    evaluate(EvaluationRecipe(**values))


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(values, tmp_path):
    broken, whole = EvaluationRecipe(**values), EvaluationRecipe(**{**values, "output": str(tmp_path / "whole")})
    child = Forked(evaluate_values, values, CUDA_VISIBLE_DEVICES="")
    file = broken.output / "questions.jsonl"
    while child.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= 4):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = file.read_bytes()
    complete = before[: before.rfind(b"\n") + 1]
    file.write_bytes(complete + b'{"method": "rag", "index')  # as if the kill had cut a line
    evaluate(broken)
    evaluate(whole)
    assert file.read_bytes().startswith(complete) and complete.count(b"\n") >= 4
    assert without_seconds(records(broken.output)) == without_seconds(records(whole.output))
    evaluate(broken)
    assert len(records(broken.output)) == 16


def test_a_folder_of_another_run_is_refused(values):
    evaluate(EvaluationRecipe(**values))
    with pytest.raises(ConfigError, match="another output"):
        evaluate(EvaluationRecipe(**{**values, "max_new_tokens": 5}))


def test_a_larger_limit_and_another_method_ask_only_what_is_missing(values):
    data = values["data"]
    evaluate(EvaluationRecipe(**{**values, "data": {**data, "limit": 2}, "methods": ["rag"]}))
    before = records(values["output"])
    summary = evaluate(EvaluationRecipe(**{**values, "methods": ["rag", "paper"]}))
    found = records(values["output"])
    assert found[:2] == before and len(found) == 8 and summary["scores"]["rag"]["all"]["n"] == 4
    file = Path(data["file"])
    file.write_text(file.read_text().replace("Oakport", "Ashhaven"))
    with pytest.raises(ConfigError, match="another output"):
        evaluate(EvaluationRecipe(**{**values, "methods": ["rag"]}))


def test_prag_runs_over_pairs_and_needs_some_about_every_passage(values, tmp_path):
    changes = {"methods": ["prag", "shuffled_prag"], "checkpoints": {}, "prompt_variant": {"prag": "question_only"}}
    pairs = tmp_path / "pairs.jsonl"
    asked = load_questions(EvaluationRecipe(**values))
    rows = [{"documents": one.passages, "question": "Who?", "answer": "Anna"} for one in asked]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(InputError, match="Dov Peretz"):
        evaluate(EvaluationRecipe(**{**values, **changes, "prag": {"pairs": [str(pairs)]}}))
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = evaluate(EvaluationRecipe(**{**values, **changes, "prag": {"pairs": [str(pairs)]}}))
    assert summary["deviations"] == {"prag": "question_only", "shuffled_prag": "question_only"}
    assert summary["scores"]["prag"]["all"]["n"] == 4
    assert summary["costs"]["prag"]["offline_seconds"] > 0
    found = records(values["output"])
    assert sum(record["offline"].get("documents", 0) for record in found) == 4  # every question's one passage, once
    prag, control = ([r["prompt"] for r in found if r["method"] == m] for m in ("prag", "shuffled_prag"))
    assert prag == control  # the control deviates as its method does


def test_prag_without_a_source_of_questions_gets_templated_ones(values):
    recipe = EvaluationRecipe(**{**values, "methods": ["prag"], "checkpoints": {}, "prag": {"templated": 2}})
    for one in load_questions(recipe):
        for document in one.augmented:
            assert 1 <= len(document.questions) <= 2 and one.text not in dict(document.questions)


def test_passages_of_the_pool_are_the_best_of_all_questions(values):
    given = load_questions(EvaluationRecipe(**values))
    found = load_questions(EvaluationRecipe(**{**values, "retriever": {"kind": "pool"}, "top_k": 2}))
    assert [one.passages[0] for one in found] == [one.passages[0] for one in given]
    assert all(len(set(one.passages)) == 2 for one in found)


@pytest.mark.parametrize("top_k", [1, 2])
def test_questions_answered_together_get_the_answers_that_each_gets_alone(values, tmp_path, top_k):
    found = []
    for batch in (1, 3):
        recipe = EvaluationRecipe(**{**values, "top_k": top_k, "batch_size": batch, "output": str(tmp_path / f"batch-{batch}")})
        evaluate(recipe)
        found.append({(r["method"], r["index"]): (r["text"], r["prompt"], r["passages"]) for r in records(recipe.output)})
    assert found[0] == found[1] and len(found[0]) == 4 * 4


def test_a_question_for_which_nothing_is_found_is_asked_closed_book(values):
    recipe = EvaluationRecipe(**values)
    evaluation = Evaluation(recipe)
    loaded = evaluation.questions(recipe)
    questions = with_others([replace(one, passages=()) if place == 1 else one for place, one in enumerate(loaded)])
    assert [len(batch) for batch in batches(questions, 8)] == [1, 3]
    assert [len(batch) for batch in batches(questions, 1)] == [1, 1, 1, 1]
    (made,) = evaluation.answer("paper", [questions[1]], recipe)
    (closed,) = evaluation.answer("closed_book", [questions[1]], recipe)
    assert made.prompt == closed.prompt and made.text == closed.text and made.passages == []


def test_the_summary_says_how_much_the_passages_repeat_the_training_documents(values, tmp_path):
    texts = [one.passages[0] for one in load_questions(EvaluationRecipe(**values))]
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"documents": [text], "question": "Who?", "answer": "Anna"} for text in (texts[0], "Something else altogether here.")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = evaluate(EvaluationRecipe(**{**values, "methods": ["rag"], "checkpoints": {}, "training_pairs": [str(pairs)]}))
    assert summary["overlap"]["documents"] == 4 and summary["overlap"]["max"] == 1.0
    assert summary["overlap"]["share_at_least"]["0.9"] == 0.25


def test_the_kind_of_mask_is_printed_as_a_deviation_and_a_checkpoint_must_be_of_its_methods_kind(values, tiny_base, tmp_path):
    random_generator(tiny_base, {**PAPER, "mask": "none"}).save_pretrained(tmp_path / "none")
    changed = {**values, "methods": ["paper"], "checkpoints": {"paper": str(tmp_path / "none")}}
    assert evaluate(EvaluationRecipe(**changed))["deviations"] == {"paper": "none mask"}
    wrong = {**values, "methods": ["dyprag"], "checkpoints": {"dyprag": str(tmp_path / "none")}}
    with pytest.raises(ConfigError, match="architecture dyprag"):
        evaluate(EvaluationRecipe(**wrong))


def test_a_damaged_record_is_named(values):
    recipe = EvaluationRecipe(**values)
    evaluate(recipe)
    file = recipe.output / "questions.jsonl"
    file.write_text(file.read_text().replace('{"method"', '{"method', 1))
    with pytest.raises(InputError, match="line 2 is damaged"):
        evaluate(recipe)


def test_several_benchmarks_run_as_one_table(values, tmp_path, dprag):
    def entry(question):
        passages = [f"{name} was born in {city}." for name, city in PEOPLE[:2]]
        augment = [
            {"pid": 0, "passage": p, "m_rewrite": p, "m_qa": [{"question": "Who?", "answer": "A", "full_answer": None}]}
            for p in passages
        ]
        return {
            "qid": question,
            "test_id": 0,
            "question": question,
            "answer": "Oakport",
            "passages": passages,
            "augment": augment,
        }

    folders = []
    for dataset, subtask in (("2wikimultihopqa", "comparison"), ("hotpotqa", "bridge")):
        folders.append(tmp_path / "data_aug" / dataset / "m")
        folders[-1].mkdir(parents=True)
        (folders[-1] / f"{subtask}.json").write_text(json.dumps([entry("Where was Anna born?"), entry("Who was born?")]))
    data = [{"name": "data_aug", "file": str(folder)} for folder in folders]
    changes = {
        "data": data,
        "methods": ["rag", "prag"],
        "checkpoints": {},
        "prag": {"augmented": [str(folder) for folder in folders]},
    }
    summary = evaluate(EvaluationRecipe(**{**values, **changes}))
    assert {name: own["n"] for name, own in summary["scores"]["prag"].items()} == {
        "all": 4, "2wikimultihopqa/comparison": 2, "hotpotqa/bridge": 2
    }  # fmt: skip
    code, _, error = dprag("report", values["output"], "--out", tmp_path / "report")
    assert code == 0, error
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## 2wikimultihopqa: run, token F1" in text and "2wikimultihopqa, hotpotqa hotpotqa/bridge" not in text


def test_passages_come_from_a_corpus_index_too(values, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"title": name, "text": f"Birth: {name}, {city}."} for name, city in PEOPLE]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    retriever = {"kind": "corpus", "index": str(tmp_path / "index"), "corpus": str(corpus)}
    asked = load_questions(EvaluationRecipe(**{**values, "retriever": retriever, "top_k": 2}))
    assert [one.passages[0] for one in asked] == [f"{name}\nBirth: {name}, {city}." for name, city in PEOPLE]
    assert all(len(one.passages) == 2 and one.recall == {"answer_recall": 1.0, "title_recall": 1.0} for one in asked)


@pytest.mark.parametrize("change, wrong", [
    ({"methods": ["ragg"]}, "ragg"),
    ({"methods": ["rag", "rag"]}, "twice"),
    ({"methods": ["dyprag"]}, "dyprag needs a checkpoint"),
    ({"checkpoints": {"rag": "x"}, "methods": ["rag"]}, "rag"),
    ({"prompt_variant": {"rag": "open"}}, "rag has one prompt"),
    ({"prompt_variant": {"ragg": "open"}}, "ragg"),
    ({"data": {"source": "benchmark", "name": "popqa", "file": "FILE", "options": {"skip": 1}}}, "no option 'skip'"),
    ({"data": {"source": "benchmark", "name": "popqa", "file": "FILE", "size": 3}}, "size"),
    ({"data": {"source": "benchmark", "name": "popqa", "file": "FILE", "subtasks": ["bridge"]}}, "bridge"),
])  # fmt: skip
def test_a_wrong_recipe_is_a_message_and_exit_code_1(values, tmp_path, dprag, change, wrong):
    made = {**values, **change}
    if made["data"].get("file") == "FILE":
        made["data"] = {**made["data"], "file": str(popqa(tmp_path))}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(made))
    code, _, error = dprag("evaluate", file)
    assert code == 1 and wrong in error and "Traceback" not in error


def test_the_command_prints_the_table_with_deviations(values, tmp_path, dprag):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**values, "prompt_variant": {"paper": "open"}}))
    code, out, error = dprag("evaluate", file)
    assert code == 0, error
    assert "paper" in out and "(open)" in out


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_evaluation_recipe_parses(file):
    assert read_recipe(file, EvaluationRecipe).task == "evaluate"


SMOKE = [("popqa", "popqa_300.json", 2), ("xquad", "xquad.en.json", 1)]


@pytest.mark.skipif("DPRAG_TEST_DATA" not in os.environ, reason="DPRAG_TEST_DATA names the folder of the real data files")
@pytest.mark.parametrize("name, file, top_k", SMOKE)
def test_real_text_goes_through(values, name, file, top_k):
    data = {"source": "benchmark", "name": name, "file": str(Path(os.environ["DPRAG_TEST_DATA"]) / file), "limit": 2}
    summary = evaluate(EvaluationRecipe(**{**values, "data": data, "top_k": top_k}))
    assert summary["scores"]["rag"]["all"]["n"] == 2
