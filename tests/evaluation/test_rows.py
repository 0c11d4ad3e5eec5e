"""`dprag evaluate --data`: rows, resuming, and the summary's figures."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.llm import load_base
from distilledprag.base.prepare import prepare_base
from distilledprag.evaluation.summary import Answered, scores_of, table_rows
from distilledprag.generators.compressed import CompressorSettings, StateCompressor

METHODS = ("closed_book", "rag", "state", "state_plain", "state_chosen", "shuffled")


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
    ("options", "message"), [(["--methods", "magic"], "unknown method 'magic'"), (["--data", "nowhere.jsonl"], "nowhere.jsonl")]
)
def test_mistakes_are_named(dprag, base, data, options, message):
    code, _, err = dprag("evaluate", "--data", data, "--base", base, *options)
    assert code == 1 and message in err


def test_a_larger_n_goes_on_from_the_answers_of_a_smaller_one(dprag, base, data, tmp_path):
    """Also from answers that hold no more than what was said and what it cost."""
    out, journal = tmp_path / "table.json", tmp_path / "table.questions.answers.jsonl"
    options = ["evaluate", "--data", data, "--json", out, "--base", base, "--methods"]
    assert dprag(*options, "rag,state", "--n", 2)[0] == 0
    fields = ("method", "index", "text", "adapter_bytes", "prompt_tokens", "rows", "seconds")
    identity, *lines = map(json.loads, journal.read_text().splitlines())
    short = [{name: line[name] for name in fields} for line in lines]
    journal.write_text("".join(json.dumps(line) + "\n" for line in (identity, *short)))
    assert dprag(*options, "rag,state,shuffled")[0] == 0
    found = list(map(json.loads, journal.read_text().splitlines()))
    assert found[1:5] == short and len(found) == 1 + 9
    assert [row["n"] for row in json.loads(out.read_text())["rows"] if row["type"] == "all"] == [3, 3, 3]
    assert dprag(*options, "rag", "--seed", 1)[0] == 0  # another draw starts anew
    assert len(journal.read_text().splitlines()) == 1 + 3


def test_options_make_a_recipe_that_set_can_change(dprag, base, data, tmp_path):
    out = tmp_path / "table.json"
    options = ["evaluate", "--data", data, "--json", out, "--base", base, "--methods", "rag"]
    assert dprag(*options, "--set", "max_new_tokens=3")[0] == 0
    assert json.loads(out.read_text())["config"]["max_new_tokens"] == 3
    code, _, err = dprag(*options, "--set", "speed=3")
    assert code == 1 and "speed" in err and "Traceback" not in err


def test_scores_and_share_of_rag_by_hand():
    wanted, texts = ("Oakport", "31 March"), {"rag": ["Oakport", "March"], "state": ["Oakport", "April"]}
    answers = {
        method: [
            Answered(method, i, text, 10, 20, 3, 0.1, dataset="hand", type="x", scores=scores_of(text, [wanted[i]], "squad"))
            for i, text in enumerate(found)
        ]
        for method, found in texts.items()
    }
    rag, state = table_rows(answers)
    assert rag["exact_match"] == 0.5 and rag["f1"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    assert state["f1"] == 0.5 and state["of_rag"] == pytest.approx(0.6, abs=1e-4)


def test_a_compressor_named_on_the_command_line_serves_the_ratios_it_was_trained_for(dprag, base, data, tmp_path):
    loaded = load_base(base)
    StateCompressor(CompressorSettings(ratios=(2,), layer=1, rank=2), loaded).save_pretrained(tmp_path / "compressor")
    out = tmp_path / "table.json"
    command = ("evaluate", "--data", data, "--json", out, "--base", base, "--generator", tmp_path / "compressor", "--retrieve", 2)
    code, _, err = dprag(*command, "--methods", "rag,state,state_r2,shuffled_state_r2")
    assert code == 0, err
    record = json.loads(out.read_text())
    rows = {row["method"]: row for row in record["rows"] if row["type"] == "all"}
    assert rows["state"]["rows"] > 1.8 * rows["state_r2"]["rows"] > 0
    assert rows["state_r2"]["prompt_tokens"] < rows["rag"]["prompt_tokens"]
    assert rows["rag"]["documents"] == 2 and record["config"]["passages"] == "BM25 top 2 of the file"
    assert record["config"]["checkpoints"]["state_r2"].startswith("compressed-")
    code, _, err = dprag(*command, "--methods", "state_r4")
    assert code == 1 and "--generator" in err
