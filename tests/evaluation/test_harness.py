"""The real lm-evaluation-harness with our model class, on a task made here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="make test-harness installs it")

from distilledprag.errors import ConfigError  # noqa: E402
from distilledprag.evaluation.harness import DistilledPRAGHarness  # noqa: E402

PEOPLE = {"Ingrid Lindovic": "Dunmouth", "Clara Marsen": "Ashhaven", "Omar Tovberg": "Oakport"}
ROWS = [
    (f"In which city does {name} live?", city, f"{name} works for Velkor Freight. {name} lives in {city}.")
    for name, city in PEOPLE.items()
]


@pytest.fixture
def tasks(tmp_path):
    rows = [{"question": q, "answer": a, "documents": [d]} for q, a, d in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    source |= {"test_split": "test", "doc_to_text": "{{question}}"}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    generate = {**source, "task": "cities", "output_type": "generate_until", "doc_to_target": "{{answer}}"}
    generate |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 12}, "metric_list": [exact]}
    choose = {**source, "task": "choose", "output_type": "multiple_choice", "doc_to_target": "{{answer}}"}
    choose |= {"doc_to_choice": [a for _, a, _ in ROWS], "metric_list": [exact | {"metric": "acc"}]}
    for task in (generate, choose):
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(task))
    return tmp_path


def measured(model, folder, task):
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(model=model, tasks=[task], task_manager=TaskManager(include_path=str(folder)))
    return {name.split(",")[0]: value for name, value in results["results"][task].items()}


def test_documents_of_the_rows_answer_and_the_closed_book_does_not(tasks):
    assert measured(DistilledPRAGHarness(), tasks, "cities")["exact_match"] == 1.0
    assert measured(DistilledPRAGHarness(method="rag"), tasks, "cities")["exact_match"] == 1.0
    assert measured(DistilledPRAGHarness(method="closed_book"), tasks, "cities")["exact_match"] == 0.0


def test_choices_are_scored_by_their_likelihood(tasks):
    assert measured(DistilledPRAGHarness(), tasks, "choose")["acc"] == 1.0


def test_documents_are_found_in_a_folder_where_rows_have_none(tasks, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, (_, _, document) in enumerate(ROWS):
        (folder / f"{number}.txt").write_text(document)
    model = DistilledPRAGHarness(docs=str(folder), documents_field="none", top_k=1)
    assert measured(model, tasks, "cities")["exact_match"] == 1.0
    with pytest.raises(ConfigError, match="docs=FOLDER"):
        measured(DistilledPRAGHarness(documents_field="none"), tasks, "cities")


def test_the_command_runs_and_unknown_methods_are_refused(tasks, tmp_path):
    command = [sys.executable, "-m", "distilledprag.evaluation.harness", "run", "--model", "distilledprag", "--tasks", "cities"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "cities" in done.stdout, done.stderr
    with pytest.raises(ConfigError, match="is not one of"):
        DistilledPRAGHarness(method="shuffled")
