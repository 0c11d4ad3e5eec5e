"""The cheapest reading attack on an adapter: every direction that it can write, as the token whose embedding is nearest.

The attacker holds the base model and the adapter, as the engine does, and neither the generator nor other adapters.

    D = width of the base, V = vocabulary, r = rank, L = adapted layers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from distilledprag.lora.weights import LoraWeights


class Recovered(NamedTuple):
    """Shares of the documents, 0 to 1. tokens: of its tokens (with their counts) that were read; runs: of its different runs of
    `RUN` tokens that stand together in what was read."""

    tokens: float
    runs: float


RUN = 3


@torch.no_grad()
def nearest_tokens(weights: LoraWeights, model: Any) -> dict[str, list[int]]:
    """Per down projection, the tokens nearest (by cosine, either sign) to its columns of B (D, r), in their order."""
    embeddings = functional.normalize(model.get_input_embeddings().weight.float(), dim=-1)  # (V, D)
    found = {}
    for key, pair in weights.modules.items():
        if key.endswith("down_proj"):
            columns = functional.normalize(pair.b.float().mT.to(embeddings.device), dim=-1)  # (r, D)
            found[key] = (columns @ embeddings.mT).abs().argmax(-1).tolist()
    return found


def recovered(read: Sequence[int], documents: Sequence[Sequence[int]]) -> Recovered:
    """How much of the documents' tokens is in the tokens that were read. Raises ValueError for documents without tokens."""
    wanted = Counter(token for document in documents for token in document)
    if not wanted:
        raise ValueError("the documents have no tokens; give some text")
    runs = {run for document in documents for run in _runs(document)}
    got = (Counter(read) & wanted).total() / wanted.total()
    return Recovered(got, len(runs & set(_runs(read))) / max(1, len(runs)))


def most_recovered(weights: LoraWeights, model: Any, documents: Sequence[Sequence[int]]) -> Recovered:
    """The best that any one layer gives away, for each of the two shares."""
    every = [recovered(read, documents) for read in nearest_tokens(weights, model).values()]
    return Recovered(max((one.tokens for one in every), default=0.0), max((one.runs for one in every), default=0.0))


def _runs(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[begin : begin + RUN]) for begin in range(len(tokens) - RUN + 1)]
