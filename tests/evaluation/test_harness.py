"""The real lm-evaluation-harness with our model class, on a task made here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="make test-harness installs it")

from distilledprag.base.llm import greedy_texts  # noqa: E402
from distilledprag.errors import ConfigError  # noqa: E402
from distilledprag.evaluation.harness import DistilledPRAGHarness  # noqa: E402
from distilledprag.evaluation.methods import METHODS, Question, Setting  # noqa: E402
from distilledprag.generators import load_generator  # noqa: E402
from distilledprag.prompts import PromptBuilder  # noqa: E402

PEOPLE = {"Ingrid Lindovic": "Dunmouth", "Clara Marsen": "Ashhaven", "Omar Tovberg": "Oakport"}
ROWS = [
    (f"In which city does {name} live?", city, f"{name} works for Velkor Freight. {name} lives in {city}.")
    for name, city in PEOPLE.items()
]


@pytest.fixture
def models(tiny_base_folder, tiny_generator_folder):
    return {"base": str(tiny_base_folder), "generator": str(tiny_generator_folder)}


@pytest.fixture
def tasks(tmp_path, tiny_base, tiny_generator_folder):
    """`cities` wants what the method paper answers, and `choose` what it finds likelier than the same with more after it."""
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    setting = Setting(tiny_base, prompts, {"paper": load_generator(tiny_generator_folder, tiny_base)})
    rows = []
    for question, _, text in ROWS:
        answer = document = ""
        for number in range(100):  # until the model, which has random weights, writes something on its first line
            document = f"{text} {number} people know."
            made = METHODS["paper"](setting, [Question(question, passages=(document,))])
            answer = greedy_texts(tiny_base, made.prompts, made.adapters, prompts.end_of_turn_id, 12)[0].split("\n")[0].strip()
            if answer:
                break
        rows.append({"question": question, "answer": answer, "documents": [document]})
    assert all(row["answer"] for row in rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    source |= {"test_split": "test", "doc_to_text": "{{question}}"}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    generate = {**source, "task": "cities", "output_type": "generate_until", "doc_to_target": "{{answer}}"}
    generate |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 12}, "metric_list": [exact]}
    choose = {**source, "task": "choose", "output_type": "multiple_choice", "doc_to_target": "{{answer}}"}
    choose |= {
        "doc_to_target": 0,
        "doc_to_choice": "{{[answer, answer ~ ' Zzyzx 77 &%']}}",
        "metric_list": [exact | {"metric": "acc"}],
    }
    for task in (generate, choose):
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(task))
    return tmp_path


def measured(model, folder, task):
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(model=model, tasks=[task], task_manager=TaskManager(include_path=str(folder)))
    return {name.split(",")[0]: value for name, value in results["results"][task].items()}


def test_the_harness_asks_what_the_method_asks(tasks, models):
    assert measured(DistilledPRAGHarness(method="paper", **models), tasks, "cities")["exact_match"] == 1.0
    closed = DistilledPRAGHarness(method="closed_book", base=models["base"])
    assert measured(closed, tasks, "cities")["exact_match"] < 1.0


def test_choices_are_scored_by_their_likelihood(tasks, models):
    assert measured(DistilledPRAGHarness(method="paper", **models), tasks, "choose")["acc"] == 1.0


def test_documents_are_found_in_a_folder_where_rows_have_none(tasks, models, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, line in enumerate((tasks / "rows.jsonl").read_text().splitlines()):
        (folder / f"{number}.txt").write_text(json.loads(line)["documents"][0])
    options = {"method": "paper", "documents_field": "none", **models}
    model = DistilledPRAGHarness(docs=str(folder), top_k=1, **options)
    assert measured(model, tasks, "cities")["exact_match"] == 1.0
    with pytest.raises(ConfigError, match="docs=FOLDER"):
        measured(DistilledPRAGHarness(**options), tasks, "cities")


def test_the_command_runs_and_unknown_methods_are_refused(tasks, models, tmp_path):
    command = [sys.executable, "-m", "distilledprag.evaluation.harness", "run", "--model", "distilledprag", "--tasks", "cities"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out"), "--model_args", f"base={models['base']}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "cities" in done.stdout, done.stderr
    with pytest.raises(ConfigError, match="is not one of"):
        DistilledPRAGHarness(method="shuffled")
    with pytest.raises(ConfigError, match="generator=FOLDER"):
        DistilledPRAGHarness(method="paper", base=models["base"])
