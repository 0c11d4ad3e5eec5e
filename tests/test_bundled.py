"""The model that ships: its golden answer, its logits, its size, and the demo's bar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distilledprag.bundled import bundled_base, bundled_generators
from distilledprag.evaluation.methods import METHODS
from distilledprag.evaluation.metrics import exact_match
from distilledprag.generator import generator_identity
from distilledprag.lora.injection import inject
from distilledprag.passages import BM25Retriever, load_passages
from distilledprag.pipeline import DistilledPRAG

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden.json").read_text())


@pytest.fixture(scope="module")
def prag():
    return DistilledPRAG.from_pretrained()


def test_the_bundled_generator_is_the_one_the_golden_values_were_made_with(prag):
    assert generator_identity(prag.generator) == GOLDEN["generator"]


def test_the_golden_prompt_gives_the_golden_answer_and_logits(prag):
    answer = prag.answer(GOLDEN["question"], GOLDEN["documents"])
    assert answer.text == GOLDEN["answer"]
    with torch.no_grad():
        passages = [passage.text for passage, _ in answer.passages]
        prompt = torch.tensor([prag.prompts.build(GOLDEN["question"], passages).masked_ids])
        with inject(prag.base.model, prag._generate(passages)):
            logits = prag.base.model(input_ids=prompt).logits[0, -1]
    assert logits.topk(5).values.tolist() == pytest.approx(GOLDEN["top_logits"], abs=2e-3)


def test_the_bundle_fits_the_package():
    size = sum(f.stat().st_size for folder in (bundled_base(), *bundled_generators().values()) for f in folder.rglob("*"))
    assert size < 30_000_000


def test_every_method_of_the_contract_runs_with_what_ships(dprag, tmp_path, monkeypatch):
    from distilledprag.evaluation import world

    monkeypatch.setattr(world, "cells", lambda: iter([world.Cell("test", "single", 1)]))
    methods = "closed_book,rag,prag,dyprag,distilled_paper,distilled_per_rank,shuffled"
    code, _, error = dprag("evaluate", "--world", "--n", 20, "--methods", methods, "--json", tmp_path / "out.json")
    assert code == 0, error
    scores = {row["method"]: row["exact_match"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert list(scores) == [name for name in METHODS if name in methods.split(",")]
    assert scores["rag"] >= 0.9 and scores["distilled_per_rank"] >= 0.9 and scores["closed_book"] == scores["shuffled"] == 0


def test_at_least_eight_of_the_demos_ten_questions_are_right_and_closed_book_none(prag):
    retriever = BM25Retriever(load_passages([ROOT / "examples" / "documents"]))
    rows = [json.loads(line) for line in (ROOT / "examples" / "questions.jsonl").read_text().splitlines()]
    right = sum(exact_match(prag.answer(row["question"], retriever=retriever).text, row["answer"]) for row in rows)
    closed = sum(exact_match(prag.answer_closed_book(row["question"]), row["answer"]) for row in rows)
    assert len(rows) == 10 and right >= 8 and closed == 0
