"""The default base as a newcomer meets it: the real SmolLM2 with our reader. Fetched once, then cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilledprag.evaluation.recipe import EvaluationRecipe, rows_recipe
from distilledprag.evaluation.runner import Evaluation
from distilledprag.pipeline import DistilledPRAG

EVERYDAY = Path(__file__).parents[1] / "data" / "everyday.jsonl"
DOCUMENTS = [
    "Maria Lindgren starts on 1 March 2026 as a nurse. Her salary is 41,250 euros a year. She reports to Dr. Osei.",
    "The invoice KX-20417-B of Halden Mills was paid on 3 May.",
]


@pytest.fixture(scope="module")
def prag():
    return DistilledPRAG.from_pretrained()


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("What is Maria Lindgren's salary?", "41,250 euros"),
        ("Who does she report to?", "Dr. Osei"),
        ("Which invoice was paid on 3 May?", "KX-20417-B"),
        ("When does Maria Lindgren start?", "1 March 2026"),
    ],
)
def test_golden_answers(prag, question, wanted):
    answer = prag.answer(question, documents=DOCUMENTS)
    assert answer.text.startswith(wanted) and prag.answer_rag(question, DOCUMENTS) == wanted
    assert "Lindgren starts" not in answer.sent.prompt and answer.sent.adapter_bytes < 40_000


def test_shuffled_documents_do_not_answer(prag):
    assert prag.answer("What is Maria Lindgren's salary?", documents=DOCUMENTS[1:]).text == "not in the documents"


def test_everyday_questions_are_answered_as_by_plain_rag(tmp_path):
    file = tmp_path / "everyday.jsonl"
    file.write_text("\n".join(EVERYDAY.read_text().splitlines()[::10]) + "\n")
    methods = ["closed_book", "rag", "state", "state_plain"]
    options = {"output": tmp_path, "n": None, "seed": 0, "base": None, "chosen_rows": 0.35, "methods": methods}
    recipe = EvaluationRecipe(**rows_recipe(file, **options) | {"max_new_tokens": 16})
    evaluation = Evaluation(recipe)
    answers = evaluation.run(recipe, evaluation.questions(recipe), tmp_path / "answers.jsonl")
    right = {method: sum(one.scores["exact_match"] for one in found) for method, found in answers.items()}
    assert right["rag"] >= 8 and right["state"] >= right["rag"] - 2 and right["state_plain"] >= right["rag"] - 2
    assert right["closed_book"] <= 1


def test_exported_adapter_answers_in_peft(prag, tmp_path, monkeypatch):
    prag.encode(DOCUMENTS).save_pretrained(tmp_path / "adapter")
    from distilledprag.base.default import default_base

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(default_base(), dtype=torch.bfloat16), tmp_path / "adapter"
    )
    tokenizer = AutoTokenizer.from_pretrained(default_base())
    ids = torch.tensor([prag.peft_prompt("What is Maria Lindgren's salary?", DOCUMENTS)])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip().startswith("41,250 euros")
