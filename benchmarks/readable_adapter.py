"""How much of its documents can be read out of an adapter with the base model's embeddings alone (privacy/nearest_embedding.py),
as adapters are exported and, for comparison, with their slots left in order. Record world, test split.

Prints one JSON line and writes it to docs/results/readable_adapter.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from distilledprag.evaluation.machine import machine
from distilledprag.files import write_atomically
from distilledprag.generator import generator_identity, load_generator
from distilledprag.pipeline import DistilledPRAG
from distilledprag.privacy.nearest_embedding import most_recovered
from distilledprag.synthesis.world import World

RESULT = Path(__file__).parents[1] / "docs" / "results" / "readable_adapter.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--generator", help="folder of another generator for the bundled base")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    prag = DistilledPRAG.from_pretrained()
    if options.generator:
        prag = DistilledPRAG(prag.base, load_generator(options.generator, prag.base))
    world, rows = World("test", 0), []
    for documents in (1, 3):
        shares: dict[str, list[float]] = {}
        for index in range(options.examples):
            texts = world.example(index, "single", documents).documents
            context = prag.prompts.context(texts)
            tokens = [token for token, inside in zip(context.open_ids, context.is_document, strict=True) if inside]
            with torch.no_grad():
                in_order = prag._generate(texts).unstack(prag.base.identity, "")[0].without_idle_ranks()
            for name, weights in (("exported", prag.encode(texts)), ("in_order", in_order)):
                found = most_recovered(weights, prag.base.model, [tokens])
                shares.setdefault(f"{name}_tokens", []).append(found.tokens)
                shares.setdefault(f"{name}_runs", []).append(found.runs)
        means = {name: round(statistics.mean(values), 4) for name, values in shares.items()}
        rows.append({"documents": documents, "n": options.examples, **means})
    result = {"benchmark": "readable_adapter", "rows": rows, "generator": generator_identity(prag.generator), **machine()}
    write_atomically(options.result, json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
