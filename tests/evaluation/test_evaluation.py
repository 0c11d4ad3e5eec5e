"""Metrics as the official scripts compute them, and answers that do not depend on batching."""

from __future__ import annotations

import json

import pytest
from tiny import PER_RANK, random_generator

from distilledprag.evaluation import world
from distilledprag.evaluation.methods import METHODS, Setting
from distilledprag.evaluation.metrics import exact_match, normalise, token_f1, wilson_interval
from distilledprag.evaluation.partial import PartialRows
from distilledprag.evaluation.targets import checks
from distilledprag.evaluation.world import ROW_KEY, Cell, answers, cells, evaluate_world, items_of, measure
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder


@pytest.mark.parametrize("prediction, answer, exact, f1", [
    ("The Beatles", "beatles", 1.0, 1.0),
    ("in Paris, France", "Paris", 0.0, 2 * (1 / 3) / (1 + 1 / 3)),
    ("yes", "Yes.", 1.0, 1.0),
    ("yes it is", "yes", 0.0, 0.0),
    ("no", "yes", 0.0, 0.0),
    ("", "", 1.0, 1.0),
    ("", "Paris", 0.0, 0.0),
    ("a an the", "", 1.0, 1.0),
    ("$46,000", "$46000", 1.0, 1.0),
    ("Zürich", "zürich", 1.0, 1.0),
    ("new york new york", "new york", 0.0, 2 * (1 / 2) / (1 + 1 / 2)),
])  # fmt: skip
def test_metrics_on_awkward_cases(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_normalisation_drops_articles_punctuation_and_case():
    assert normalise("  The U.S. of  A-merica! ") == "us of america"


def test_wilson_interval_contains_the_share_and_narrows():
    low, high = wilson_interval(0.9, 500)
    assert low < 0.9 < high and high - low < 0.06
    assert wilson_interval(1.0, 100)[1] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def setting(tiny_base):
    generator = random_generator(tiny_base, PER_RANK)
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    return Setting(tiny_base, prompts, {"distilled_per_rank": generator, "shuffled": generator})


@pytest.mark.parametrize("method", ["closed_book", "rag", "distilled_per_rank", "shuffled"])
def test_a_batch_gives_what_each_question_gives_alone(setting, method):
    items = items_of(Cell("test", "single", 2), 6, seed=1)
    assert answers(setting, method, items) == [answers(setting, method, [item])[0] for item in items]


def test_the_evaluator_gives_what_the_pipeline_answers(setting):
    prag = DistilledPRAG(setting.base, setting.generators["distilled_per_rank"])
    for item in items_of(Cell("test", "single", 1), 4, seed=2):
        for method, whole in (
            ("distilled_per_rank", prag.answer(item.question, item.documents).text),
            ("rag", prag.answer_rag(item.question, item.documents)),
        ):
            made = answers(setting, method, [item])[0]  # the evaluator stops earlier: answers are short
            assert made and whole.startswith(made)


def test_shuffled_uses_another_examples_documents_and_this_ones_masks(setting):
    items = items_of(Cell("test", "single", 2), 3, seed=1)
    assert all(item.documents != item.other_documents for item in items)
    ours, _ = METHODS["distilled_per_rank"](setting, items)
    control, _ = METHODS["shuffled"](setting, items)
    assert ours == control


def test_the_table_covers_what_the_contract_names():
    found = {(cell.split, cell.kind, cell.documents) for cell in cells()}
    assert {("test", "single", n) for n in (1, 2, 3)} <= found
    assert {("test", "bridge", n) for n in (3, 4)} <= found
    assert {split for split, _, _ in found} == {"test", "held_out_templates", "held_out_family"}


def test_targets_compare_with_rag_and_closed_book():
    def row(method, value):
        return {"method": method, "split": "test", "kind": "single", "documents": 1, "exact_match": value}

    rows = [row("closed_book", 0.02), row("rag", 1.0), row("distilled_per_rank", 0.97), row("shuffled", 0.08)]
    found = {what: met for what, _, _, met in checks(rows)}
    assert found == {
        "RAG, single, 1 document": True,
        "per_rank / RAG, single, 1 document": False,
        "shuffled, single, 1 document": False,
    }


def test_the_command_writes_the_table(tiny_base_folder, tiny_generator_folder, tmp_path):
    from distilledprag.commands.evaluate import run

    file = tmp_path / "out.json"
    run(True, 2, 0, "rag,shuffled", file, str(tiny_base_folder), str(tiny_generator_folder), None)
    written = json.loads(file.read_text())
    assert {row["method"] for row in written["rows"]} == {"rag", "shuffled"}
    assert {"method", "split", "kind", "documents", "n", "exact_match", "f1"} <= written["rows"][0].keys()
    assert {"seed", "n", "base", "generators", "versions", "hardware"} <= written["config"].keys()


def test_an_interrupted_table_goes_on_and_equals_one_made_at_once(setting, tmp_path, monkeypatch):
    result, identity, methods = tmp_path / "out.json", {"seed": 0}, ["rag", "shuffled"]
    whole = evaluate_world(setting, methods, 2, 0)
    finished = []

    def stop_after_three(row):
        finished.append(row)
        if len(finished) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_world(setting, methods, 2, 0, stop_after_three, PartialRows(result, identity, ROW_KEY))
    measured = []
    monkeypatch.setattr(world, "measure", lambda *args: measured.append(args[1:3]) or measure(*args))
    partial = PartialRows(result, identity, ROW_KEY)
    assert evaluate_world(setting, methods, 2, 0, None, partial) == whole
    assert len(measured) == len(whole) - 3
    partial.finish()
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_run_or_of_a_damaged_file_are_not_used(tmp_path):
    result, row = tmp_path / "out.json", {"method": "rag", "split": "test", "kind": "single", "documents": 1, "n": 2}
    PartialRows(result, {"seed": 0}, ROW_KEY).add(row)
    assert PartialRows(result, {"seed": 0}, ROW_KEY).get(**row) == row
    assert PartialRows(result, {"seed": 1}, ROW_KEY).get(**row) is None
    (tmp_path / "out.json.partial").write_text('{"identity": {"seed": 0}, "rows": [{"met')
    assert PartialRows(result, {"seed": 0}, ROW_KEY).get(**row) is None
