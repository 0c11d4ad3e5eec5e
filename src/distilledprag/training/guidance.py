"""Attention guidance: while the base LM learns to read, tell a few of its heads where to look.

Reading several passages takes three steps, and the world knows the right place for each:
1. `name_layers`: every token of a passage looks at the name of the passage's own subject, every token of a question and
   its answer at the names in the question;
2. `passage_layers`: answer positions look into the passages that the question needs (their name matches);
3. `token_layers`: answer positions look at the very token to be written next.
Steps 1 and 2 are guided in the first two heads of their layers, step 3 in the next two. Telling passages apart by name
is the slow part of learning to read; this gives it a gradient of its own. Used for the base LM only, never for a
generator. B = rows, T = tokens, N = queries of one row, h = guided heads, d = head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from distilledprag.training.packing import IGNORED, PackedBatch, TrainingRow

FLOOR = 1e-6  # least attention mass inside the logarithm
GUIDED = 4  # heads of a layer that may be guided: the first two and the next two


class GuidanceSettings(BaseModel):
    """`weight` of the guidance loss (0 switches it off) and the layers guided, counted from 0."""

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(0.0, ge=0)
    name_layers: tuple[int, ...] = (2,)
    passage_layers: tuple[int, ...] = (3,)
    token_layers: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class Places:
    """Where some tokens of one row should look. `queries`: (N,) their positions; `right`: (N, T) bool."""

    queries: Tensor
    right: Tensor


@dataclass(frozen=True)
class RowGuide:
    """The three steps' places for one row; queries without a right place are left out."""

    names: Places
    passages: Places
    tokens: Places


def guide_row(row: TrainingRow, width: int, pieces: Sequence[str]) -> RowGuide:
    """Find where the tokens of `row` should look. width: tokens T of the batch; pieces: the text of every token id."""
    packed = row.packed
    numbers = _passage_numbers(packed.is_document)
    names: list[tuple[int, list[int]]] = []
    for number, name in enumerate(row.entities):
        inside = [t for t, n in enumerate(numbers) if n == number]
        names += _looking_back(inside, _occurrences(packed.open_ids, inside, name, pieces))
    passages, tokens = [], []
    for segment, documents in enumerate(row.documents, start=1):
        asked = [t for t, s in enumerate(packed.segments) if s == segment]
        first = next(i for i, t in enumerate(asked) if packed.targets[t] != IGNORED)
        named = [t for d in documents for t in _occurrences(packed.open_ids, asked[:first], row.entities[d], pieces)]
        names += _looking_back(asked, named)
        inside = [t for t, number in enumerate(numbers) if number in documents]
        passages += [(t, inside) for t in asked[first:]]
        answer = [packed.targets[t] for t in asked[first:-1]]  # without the end of turn
        for start in _starts(packed.open_ids, answer, numbers, documents[-1]):
            tokens += [(t, [start + offset]) for offset, t in enumerate(asked[first:-1])]
    return RowGuide(_places(names, width), _places(passages, width), _places(tokens, width))


def _passage_numbers(is_document: Sequence[bool]) -> list[int]:
    """Number (from 0) of the passage that each token belongs to, -1 outside."""
    numbers, current, before = [], -1, False
    for inside in is_document:
        current += inside and not before
        numbers.append(current if inside else -1)
        before = inside
    return numbers


def _occurrences(ids: Sequence[int], positions: Sequence[int], name: str, pieces: Sequence[str]) -> list[int]:
    """Those of `positions` (ascending) whose tokens spell `name`, at every mention of it."""
    text, owners = "", []
    for position in positions:
        piece = pieces[ids[position]]
        owners += [position] * len(piece)
        text += piece
    found, start = set(), text.find(name)
    while start >= 0:
        found |= set(owners[start : start + len(name)])
        start = text.find(name, start + 1)
    return sorted(found)


def _looking_back(positions: Sequence[int], names: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Each of `positions` with the name tokens up to it, where there are any."""
    pairs = [(position, [name for name in names if name <= position]) for position in positions]
    return [(position, before) for position, before in pairs if before]


def _starts(ids: Sequence[int], answer: Sequence[int], numbers: Sequence[int], passage: int) -> list[int]:
    """Where `answer` begins within `passage`."""
    starts = [t for t, number in enumerate(numbers) if number == passage and answer and ids[t] == answer[0]]
    return [t for t in starts if list(ids[t : t + len(answer)]) == list(answer)]


def _places(pairs: Sequence[tuple[int, list[int]]], width: int) -> Places:
    """Pairs of the same query are joined."""
    queries = sorted({query for query, _ in pairs})
    rank = {query: number for number, query in enumerate(queries)}
    right = torch.zeros(len(queries), width, dtype=torch.bool)
    for query, places in pairs:
        right[rank[query], places] = True
    return Places(torch.tensor(queries, dtype=torch.long), right)


def _keep(store: dict[int, Tensor], layer: int, module: nn.Module, inputs: object, output: Tensor) -> None:
    store[layer] = output


class Guidance:
    """Computes the guidance loss of one forward pass of a Llama model with at least four heads."""

    def __init__(self, model: PreTrainedModel, settings: GuidanceSettings) -> None:
        self.model: Any = model
        self.settings = settings
        self.layers = sorted({*settings.name_layers, *settings.passage_layers, *settings.token_layers})
        self.size: int = model.config.hidden_size // model.config.num_attention_heads
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the queries and keys (B, T, D) of the guided layers' next forward pass."""
        handles = []
        for layer in self.layers:
            attention = self.model.model.layers[layer].self_attn
            for projection, store in ((attention.q_proj, self.queries), (attention.k_proj, self.keys)):
                handles.append(projection.register_forward_hook(partial(_keep, store, layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def losses(self, batch: PackedBatch, guides: Sequence[RowGuide]) -> dict[str, Tensor]:
        """Mean of -log(attention mass on the right places) for each step, over queries, guided heads and layers."""
        terms: dict[str, list[Tensor]] = {"names": [], "passages": [], "tokens": []}
        for layer in self.layers:
            for row, guide in enumerate(guides):
                queries, keys = self._turned(layer, row, batch)
                for name, layers, heads, places in (
                    ("names", self.settings.name_layers, slice(0, 2), guide.names),
                    ("passages", self.settings.passage_layers, slice(0, 2), guide.passages),
                    ("tokens", self.settings.token_layers, slice(2, 4), guide.tokens),
                ):
                    if layer in layers and len(places.queries):
                        scores = queries[heads][:, places.queries] @ keys[heads].transpose(-1, -2) / self.size**0.5
                        attention = (scores + batch.attention[row, 0, places.queries]).softmax(-1)  # (h, N, T)
                        terms[name].append(-(attention * places.right).sum(-1).clamp_min(FLOOR).log().flatten())
        self.queries.clear()
        self.keys.clear()
        return {name: torch.cat(values).mean() for name, values in terms.items() if values}

    def _turned(self, layer: int, row: int, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Queries and keys (h, T, d) of the heads that may be guided, rotated by position."""
        split = [
            store[layer][row].unflatten(-1, (-1, self.size))[:, :GUIDED].transpose(0, 1)[None]
            for store in (self.queries, self.keys)
        ]
        cosine, sine = self.model.model.rotary_emb(split[0], batch.positions[row : row + 1])
        queries, keys = apply_rotary_pos_emb(split[0], split[1], cosine, sine)
        return queries[0], keys[0]
