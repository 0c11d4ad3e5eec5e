"""Writes tests/golden.json from the bundled model: run it after new weights are shipped."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from distilledprag.generator import generator_identity
from distilledprag.lora.injection import inject
from distilledprag.pipeline import DistilledPRAG

QUESTION = "In which city does Ingrid Lindovic live?"
DOCUMENTS = ["Ingrid Lindovic works for Velkor Freight. She was hired on 14 March 2016. Ingrid Lindovic lives in Dunmouth."]


def main() -> None:
    prag = DistilledPRAG.from_pretrained()
    answer = prag.answer(QUESTION, DOCUMENTS)
    with torch.no_grad():
        prompt = torch.tensor([prag.prompts.build(QUESTION, DOCUMENTS).masked_ids])
        with inject(prag.base.model, prag._generate(DOCUMENTS)):
            logits = prag.base.model(input_ids=prompt).logits[0, -1]
    golden = {
        "question": QUESTION,
        "documents": DOCUMENTS,
        "answer": answer.text,
        "top_logits": [round(value, 4) for value in logits.topk(5).values.tolist()],
        "generator": generator_identity(prag.generator),
    }
    (Path(__file__).parents[1] / "tests" / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
