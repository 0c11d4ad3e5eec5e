"""`dprag evaluate --data`: rows, resuming, and the summary's figures."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.prepare import prepare_base
from distilledprag.evaluation.reading import METHODS, Answered, Item, summary


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).to(torch.bfloat16).save_pretrained(folder / "original")
    tokenizer.save_pretrained(folder / "original")
    prepare_base(folder / "original", folder / "base", count=64, layer=1, plain_layer=1)
    return folder / "base"


@pytest.fixture
def data(tmp_path):
    rows = [
        {
            "documents": [{"title": "T", "text": f"Anna {n} lives in Oakport."}],
            "question": f"Where does Anna {n} live?",
            "answers": ["Oakport"],
            "type": t,
        }
        for n, t in enumerate(["bridge", "comparison", "bridge"])
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_one_row_a_method_and_type_and_a_second_run_asks_nothing(dprag, base, data, tmp_path):
    out = tmp_path / "table.json"
    code, _, err = dprag("evaluate", "--data", data, "--json", out, "--base", base)
    assert code == 0, err
    record = json.loads(out.read_text())
    assert {(row["method"], row["type"]) for row in record["rows"]} == {
        (m, t) for m in METHODS for t in ("all", "bridge", "comparison")
    }
    assert all(row["f1_low"] <= row["f1"] <= row["f1_high"] for row in record["rows"])
    journal = tmp_path / "table.questions.answers.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + 3 * len(METHODS)
    journal.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # killed in the middle of a line
    assert dprag("evaluate", "--data", data, "--json", out, "--base", base)[0] == 0
    assert journal.read_text().splitlines()[1:5] == lines[1:5] and len(journal.read_text().splitlines()) == len(lines)


@pytest.mark.parametrize(
    ("options", "message"), [(["--methods", "magic"], "unknown methods magic"), (["--data", "nowhere.jsonl"], "nowhere.jsonl")]
)
def test_mistakes_are_named(dprag, base, data, options, message):
    code, _, err = dprag("evaluate", "--data", data, "--base", base, *options)
    assert code == 1 and message in err


def test_scores_and_share_of_rag_by_hand():
    items = [Item(("p",), "q", ("Oakport",), "x"), Item(("p",), "q", ("31 March",), "x")]
    texts = {"rag": ["Oakport", "March"], "state": ["Oakport", "April"]}
    answers = {m: [Answered(m, i, text, 10, 20, 3, 0.1) for i, text in enumerate(found)] for m, found in texts.items()}
    rag, state = summary(items, answers, "hand")
    assert rag["exact_match"] == 0.5 and rag["f1"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    assert state["f1"] == 0.5 and state["of_rag"] == pytest.approx(0.6, abs=1e-4)
