"""How long one question takes with the bundled model: our method, plain RAG and closed book, side by side.

Prints one JSON line (medians, ratios, hardware, configuration) and writes it to docs/results/latency.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from distilledprag.commands.evaluate import machine
from distilledprag.evaluation.world import Cell, items_of
from distilledprag.files import write_atomically
from distilledprag.generator import generator_identity
from distilledprag.pipeline import DistilledPRAG

QUESTIONS = 100


def main() -> None:
    prag = DistilledPRAG.from_pretrained()
    items = items_of(Cell("test", "single", 3), QUESTIONS, seed=0)
    seconds: dict[str, list[float]] = {"encode_one_passage": [], "distilled_per_rank": [], "rag": [], "closed_book": []}

    def timed(name: str, call: Callable[[], object]) -> None:
        begin = time.perf_counter()
        call()
        seconds[name].append(time.perf_counter() - begin)

    for item in items:
        question, documents = item.question, list(item.documents)
        timed("encode_one_passage", lambda documents=documents: prag.encode(documents[:1]))
        timed("distilled_per_rank", lambda question=question, documents=documents: prag.answer(question, documents))
        timed("rag", lambda question=question, documents=documents: prag.answer_rag(question, documents))
        timed("closed_book", lambda question=question: prag.answer_closed_book(question))
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    result = {
        "benchmark": "latency",
        "questions": QUESTIONS,
        "passages": 3,
        "median_seconds": medians,
        "ratio_to_rag": round(medians["distilled_per_rank"] / medians["rag"], 3),
        "generator": generator_identity(prag.generator),
        **machine(),
    }
    line = json.dumps(result)
    write_atomically(Path(__file__).parents[1] / "docs" / "results" / "latency.json", line + "\n")
    print(line)


if __name__ == "__main__":
    main()
