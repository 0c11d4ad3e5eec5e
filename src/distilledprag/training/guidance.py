"""Attention guidance: while the base LM learns to read, tell a few of its heads where the answer stands.

The world knows which passage holds an answer and at which token. Two heads of some layers are trained, beside the usual
loss, to look from every answer position into that passage (`passage_layers`), two of others at the very token to be
written next (`token_layers`). Telling passages apart by name is the slow part of learning to read; this gives it a
gradient of its own. Used for the base LM only, never for a generator.
B = rows, T = tokens, N = answer positions of one row, h = guided heads, d = head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from distilledprag.training.packing import IGNORED, PackedBatch, TrainingRow

FLOOR = 1e-6  # least attention mass inside the logarithm


class GuidanceSettings(BaseModel):
    """`weight` of the guidance loss (0 switches it off) and the layers guided, counted from 0."""

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(0.0, ge=0)
    passage_layers: tuple[int, ...] = (2, 3)
    token_layers: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class RowGuide:
    """Where the answer positions of one row should look. `queries`: (N,) positions; `passages`: (N, T) bool;
    `tokens`: (N, T) bool, all False where the next token does not stand in the passages."""

    queries: Tensor
    passages: Tensor
    tokens: Tensor


def guide_row(row: TrainingRow, width: int) -> RowGuide:
    """Find where each answer of `row` stands; `width`: tokens T of the batch."""
    packed = row.packed
    numbers = _passage_numbers(packed.is_document)
    queries, passages, tokens = [], [], []
    for segment, documents in enumerate(row.documents, start=1):
        asked = [t for t, s in enumerate(packed.segments) if s == segment and packed.targets[t] != IGNORED]
        inside = torch.zeros(width, dtype=torch.bool)
        inside[: len(numbers)] = torch.tensor([number in documents for number in numbers])
        answer = [packed.targets[t] for t in asked[:-1]]  # without the end of turn
        places = _places(packed.open_ids, answer, numbers, documents[-1]) if answer else []
        for offset, query in enumerate(asked):
            queries.append(query)
            passages.append(inside)
            token = torch.zeros(width, dtype=torch.bool)
            if offset < len(answer):
                token[[place + offset for place in places]] = True
            tokens.append(token)
    return RowGuide(torch.tensor(queries), torch.stack(passages), torch.stack(tokens))


def _passage_numbers(is_document: Sequence[bool]) -> list[int]:
    """Number (from 0) of the passage that each token belongs to, -1 outside."""
    numbers, current, before = [], -1, False
    for inside in is_document:
        current += inside and not before
        numbers.append(current if inside else -1)
        before = inside
    return numbers


def _places(ids: Sequence[int], answer: Sequence[int], numbers: Sequence[int], passage: int) -> list[int]:
    """Where `answer` begins within `passage`."""
    length = len(answer)
    starts = [t for t, number in enumerate(numbers) if number == passage and ids[t] == answer[0]]
    return [t for t in starts if list(ids[t : t + length]) == list(answer)]


class Guidance:
    """Computes the guidance loss of one forward pass of a Llama model."""

    def __init__(self, model: nn.Module, settings: GuidanceSettings) -> None:
        self.model = model
        self.settings = settings
        self.layers = sorted({*settings.passage_layers, *settings.token_layers})
        self.size = model.config.hidden_size // model.config.num_attention_heads
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the queries and keys (B, T, D) of the guided layers' next forward pass."""
        handles = []
        for layer in self.layers:
            attention = self.model.model.layers[layer].self_attn
            for projection, store in ((attention.q_proj, self.queries), (attention.k_proj, self.keys)):
                handles.append(
                    projection.register_forward_hook(lambda _m, _i, out, store=store, at=layer: store.update({at: out}))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, batch: PackedBatch, guides: Sequence[RowGuide]) -> Tensor:
        """Mean of -log(attention mass on the right place) over answer positions, guided heads and layers; scalar."""
        terms = []
        for layer in self.layers:
            for row, guide in enumerate(guides):
                attention = self._attention(layer, row, batch, guide)  # (4, N, T)
                if layer in self.settings.passage_layers:
                    terms.append(_surprise(attention[:2], guide.passages))
                if layer in self.settings.token_layers:
                    terms.append(_surprise(attention[2:4], guide.tokens))
        self.queries.clear()
        self.keys.clear()
        return torch.cat(terms).mean()

    def _attention(self, layer: int, row: int, batch: PackedBatch, guide: RowGuide) -> Tensor:
        """Attention (h, N, T) of the first four heads of `layer` from the answer positions of one row."""
        positions = batch.positions[row : row + 1]
        keys = self.keys[layer][row].unflatten(-1, (-1, self.size))[:, :4].transpose(0, 1)  # (h, T, d)
        queries = self.queries[layer][row].unflatten(-1, (-1, self.size))[:, :4].transpose(0, 1)  # (h, T, d)
        cosine, sine = self.model.model.rotary_emb(keys, positions)
        queries, keys = apply_rotary_pos_emb(queries[None], keys[None], cosine, sine)
        scores = queries[0][:, guide.queries] @ keys[0].transpose(-1, -2) / self.size**0.5  # (h, N, T)
        return (scores + batch.attention[row, 0, guide.queries]).softmax(-1)


def _surprise(attention: Tensor, right: Tensor) -> Tensor:
    """-log of the mass of attention (h, N, T) on `right` (N, T), for the positions that have a right place; (h * M,)."""
    known = right.any(-1)  # (N,)
    mass = (attention * right).sum(-1)[:, known]  # (h, M)
    return -mass.clamp_min(FLOOR).log().flatten()
