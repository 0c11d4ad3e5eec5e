"""State adapters: the passages' hidden states, written where plain RAG would have them (docs/method.md).

    n = tokens of a passage   N = tokens of all passages   D = hidden size   U = width of the MLP   L = a layer's number

    passage --layers 0..L, behind the opening of the prompt--> states (n, D), one row a token

    exact path   StateAdapter: the engine writes row k after layer L at the k-th mask
    plain path   LoraWeights on one down projection: A (N, U) belongs to the base, B = wanted - present states (D, N)

Passages are encoded one by one, each as passage 1 of a prompt, so that a passage's rows can be cached and put beside others.
Only the embeddings and layers 0..L of the base are needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distilledprag.base.architecture import adds_mlp_output, hidden_after, module_key
from distilledprag.base.llm import BaseLLM, passage_states
from distilledprag.base.prepared import MASKS, PreparedRecord
from distilledprag.base.reader import load_tensors
from distilledprag.errors import ConfigError, InputError
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import STATES, LoraPair, LoraWeights
from distilledprag.prompts import PromptBuilder

_CACHED_TOKENS = 200_000
_NO_TEXT = "there is no text to encode; give at least one passage that is not empty"


@dataclass(frozen=True)
class PlainPath:
    """What plain PEFT adapters need: the layer, ids of the numbered masks, A (M, U)."""

    layer: int
    numbered: range
    a: Tensor

    @classmethod
    def of(cls, folder: str | Path, record: PreparedRecord) -> PlainPath:
        """That of a prepared base or encoder. Raises CheckpointError when its A cannot be read."""
        return cls(record.plain_layer, record.numbered, load_tensors(Path(folder) / MASKS)["a"].float())


class StateGenerator:
    """Encodes passages for one base. `layer`: after which states are written on the exact path.

    The states of passages seen lately are kept in memory (some 200,000 tokens); `forget` removes those of a deleted document.
    """

    def __init__(self, base: BaseLLM, prompts: PromptBuilder, layer: int, plain: PlainPath | None = None) -> None:
        self.base, self.prompts, self.layer, self.plain = base, prompts, layer, plain
        self._cache: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def cached_tokens(self) -> int:
        """Rows held in memory, all passages and layers together."""
        with self._lock:
            return sum(map(len, self._cache.values()))

    def forget(self, texts: Iterable[str]) -> None:
        """Drop the states of these passages (after every layer) from memory."""
        gone = set(texts)
        with self._lock:
            for key in [key for key in self._cache if key[0] in gone]:
                del self._cache[key]

    @torch.inference_mode()
    def rows(self, passages: Sequence[str], layer: int | None = None) -> list[Tensor]:
        """States (n, D) after `layer` of each passage's tokens; passages seen before come from the cache."""
        layer = self.layer if layer is None else layer
        with self._lock:
            found = {text: self._cache[text, layer] for text in passages if (text, layer) in self._cache}
        missing = [text for text in dict.fromkeys(passages) if text not in found]
        if missing:
            found |= passage_states(self.base, self.prompts, missing, [layer])[layer]
        with self._lock:
            for text in passages:
                self._cache[text, layer] = found[text]
                self._cache.move_to_end((text, layer))
            total = sum(map(len, self._cache.values()))
            while total > _CACHED_TOKENS and len(self._cache) > 1:
                total -= len(self._cache.popitem(last=False)[1])
        return [found[text] for text in passages]

    def states(self, passages: Sequence[str]) -> StateAdapter:
        """The exact path's adapter for passages in their order. Raises InputError when they hold no text."""
        rows = self.rows(passages)
        if not sum(map(len, rows)):
            raise InputError(_NO_TEXT)
        return StateAdapter(torch.cat(rows).float().cpu(), self.layer, self.base.identity)

    def numbered(self, masked_ids: Sequence[int]) -> list[int]:
        """A masked prompt with numbered masks in place of the one. Raises InputError for more masks than the base has."""
        if self.plain is None:
            raise ConfigError("this base has no numbered masks; make it with `dprag prepare-base`")
        ids, number = list(masked_ids), 0
        for place, index in enumerate(ids):
            if index == self.prompts.mask_token_id:
                if number >= len(self.plain.numbered):
                    raise InputError(
                        f"the passages have more tokens than the base's {len(self.plain.numbered)} masks: use fewer passages "
                        "or rows (`dprag encode --question` chooses as many as fit), an engine of ours (no limit), or prepare "
                        "the base with more --masks"
                    )
                ids[place] = self.plain.numbered[number]
                number += 1
        return ids

    @torch.inference_mode()
    def plain_lora(self, passages: Sequence[str]) -> LoraWeights:
        """A PEFT adapter for any LoRA server: rank = number of masks, one down projection, alpha = rank.

        Raises InputError for more tokens than numbered masks, ConfigError for a base whose layers norm the MLP's output.
        """
        if not adds_mlp_output(self.base.model):
            raise ConfigError(f"{self.base.model.config.model_type} norms its MLP's output, so a LoRA there cannot write states")
        lengths = [self.prompts.document_length(text) for text in passages]
        if not sum(lengths):
            raise InputError(_NO_TEXT)
        self.numbered(self.prompts.masked_context(lengths))  # refuses too many before they are encoded
        assert self.plain is not None
        return self.lora_of(torch.cat(self.rows(passages, self.plain.layer)).float(), lengths)

    @torch.inference_mode()
    def present(self, lengths: Sequence[int]) -> Tensor:
        """States (N, D) that the numbered masks of passages of so many tokens have before a plain adapter writes there."""
        masked = self.prompts.masked_context(lengths)
        inputs = torch.tensor([self.numbered(masked)], device=self.base.device)
        assert self.plain is not None
        hidden = hidden_after(self.base.model, [self.plain.layer], input_ids=inputs)[self.plain.layer][0]
        places = [place for place, index in enumerate(masked) if index == self.prompts.mask_token_id]
        return hidden[torch.tensor(places, device=self.base.device)].float()

    def lora_of(self, wanted: Tensor, lengths: Sequence[int]) -> LoraWeights:
        """The PEFT adapter that writes the states `wanted` (N, D) at the masks of passages of so many tokens."""
        b = (wanted - self.present(lengths)).T.contiguous().cpu()
        count, plain = b.shape[1], self.plain
        assert plain is not None
        pair = LoraPair(plain.a[:count].contiguous(), b)
        return LoraWeights({module_key(plain.layer, "down_proj"): pair}, float(count), self.base.identity, STATES)
