"""Recall of BM25, of BM25 with English stems, of dense and of hybrid retrieval over one pool: all passages of the given files.

The questions of a file are drawn by a seed. Recall@k is the share of a question's own passages that are among the k best of the
pool. Prints one JSON line, writes it to docs/results/retrieval.json and the table in docs/retrieval.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from distilledprag.documents import Passage
from distilledprag.evaluation.runner import machine
from distilledprag.files import write_atomically, write_section
from distilledprag.json_lines import json_rows
from distilledprag.retrieval.bm25 import BM25Retriever, Retriever
from distilledprag.retrieval.dense import DenseRetriever, HybridRetriever, SentenceEncoder
from distilledprag.words import WordRule

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "docs" / "results" / "retrieval.json", ROOT / "docs" / "retrieval.md"
CUTS = (1, 3, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="evaluation files: documents, question, answers (may be gzipped)")
    parser.add_argument("--questions", type=int, default=1000, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", help="default: all-MiniLM-L6-v2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the encoder's layers")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = {file.name.split(".")[0]: [row for _, row in json_rows(file)] for file in options.data}
    texts = dict.fromkeys((d["title"], d["text"]) for file in rows.values() for row in file for d in row["documents"])
    pool = [Passage(text, "", title, place) for place, (title, text) in enumerate(texts)]
    asked = {name: random.Random(options.seed).sample(file, min(options.questions, len(file))) for name, file in rows.items()}
    measured, seconds = [], {}
    for name, retriever in retrievers(pool, options.encoder, options.dtype, seconds):
        for dataset, questions in asked.items():
            measured.append({"dataset": dataset, "retriever": name, **recall(retriever, questions)})
    result = {
        "benchmark": "retrieval",
        "rows": measured,
        "index_seconds": seconds,
        "config": {
            "passages": len(pool),
            "questions": options.questions,
            "seed": options.seed,
            "encoder": options.encoder or "all-MiniLM-L6-v2",
            "dtype": options.dtype,
            "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in options.data},
            "command": " ".join(["benchmarks/retrieval.py", *(Path(a).name for a in sys.argv[1:])]),
        },
        **machine(),
    }
    result["versions"] |= {name: importlib.metadata.version(name) for name in ("bm25s", "snowballstemmer")}
    line = json.dumps(result)
    write_atomically(options.result, line + "\n")
    write_section(PAGE, "made by benchmarks/retrieval.py", table(result))
    print(line)


def retrievers(pool: list[Passage], encoder: str | None, dtype: Any, seconds: dict[str, float]) -> Any:
    """(name, retriever) one after the other; `seconds`: told how long each took to index."""
    made: dict[str, Retriever] = {}
    ways = {
        "bm25": lambda: BM25Retriever(pool),
        "bm25, English stems": lambda: BM25Retriever(pool, WordRule.of_language("english")),
        "dense": lambda: DenseRetriever(pool, SentenceEncoder(encoder, dtype=dtype)),
        "hybrid": lambda: HybridRetriever([made["bm25"], made["dense"]], pool),
    }
    for name, make in ways.items():
        began = time.process_time()
        made[name] = make()
        seconds[name] = round(time.process_time() - began, 2)
        yield name, made[name]


def recall(retriever: Retriever, questions: list[dict[str, Any]]) -> dict[str, float | int]:
    """Recall at each cut, in 0..1, and processor seconds per question."""
    sums, began = dict.fromkeys(CUTS, 0.0), time.process_time()
    for row in questions:
        own = {(document["title"], document["text"]) for document in row["documents"]}
        found = [(passage.title, passage.text) for passage, _ in retriever.retrieve(row["question"], max(CUTS))]
        for cut in CUTS:
            sums[cut] += len(own.intersection(found[:cut])) / len(own)
    shares = {f"recall@{cut}": round(total / len(questions), 4) for cut, total in sums.items()}
    return {"n": len(questions), **shares, "seconds": round((time.process_time() - began) / len(questions), 4)}


def table(result: dict[str, Any]) -> str:
    heads = ["data", "retriever", "n", *(f"recall@{cut}" for cut in CUTS), "s a question"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in result["rows"]:
        shares = (f"{row[f'recall@{cut}']:.3f}" for cut in CUTS)
        lines.append(f"| {row['dataset']} | {row['retriever']} | {row['n']} | {' | '.join(shares)} | {row['seconds']:.4f} |")
    indexed = ", ".join(f"{name} {value:.1f} s" for name, value in result["index_seconds"].items())
    where = f"processor seconds on one core of {result['hardware']['processor']}"
    lines += ["", f"Pool: {result['config']['passages']:,} passages; {where}; to index: {indexed}."]
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
