"""State adapters: the passages' hidden states, written where plain RAG would have them (docs/method.md).

    n = tokens of a passage   N = tokens of all passages   D = hidden size   U = width of the MLP   L = a layer's number

    passage --layers 0..L, behind the opening of the prompt (base/llm.py)--> states (n, D), one row a token

    exact path   StateAdapter: the engine writes row k after layer L at the k-th mask
    plain path   LoraWeights on one down projection: A (N, U) belongs to the base, B = wanted - present states (D, N)

Passages are encoded one by one, each as passage 1 of a prompt, so that a passage's rows can be kept and put beside others: on
disk where the generator is given `KeptStates`, and then a question about passages that are kept costs no pass of the encoder.
Only the embeddings and layers 0..L of the base are needed.

Adapters that were made apart can be put side by side, so that documents are encoded once and combined later:

    A: passages of 53 and 47 tokens, masks 0 to 99      B: 30 tokens, masks 0 to 29
    A + B: masks 0 to 99 are A's, 100 to 129 are B's; the prompt has passages of 53, 47 and 30 masks

On the exact path the rows of B follow those of A. A PEFT adapter holds what a mask lacks to its state, in one prompt, so its rows
are made anew for their new masks. PEFT's own `cat` cannot do that: it leaves both adapters at masks 0, 1, 2, ..., where their
states add up.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distilledprag.base.architecture import adds_mlp_output, hidden_after, module_key
from distilledprag.base.llm import BaseLLM, PassageEncoder, lower_weights_hash
from distilledprag.base.prepared import MASKS, PreparedRecord, part_of
from distilledprag.base.reader import load_tensors
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.generators.kept_states import KeptStates
from distilledprag.lora.states import StateAdapter, from_int8, to_int8
from distilledprag.lora.weights import STATES, LoraPair, LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.builder import filler, rounded
from distilledprag.words import sentences

_CACHED_TOKENS = 200_000
_BATCH_TOKENS = 4096  # of passages that are encoded at a time, padding included
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
        return cls(record.plain_layer, record.numbered, load_tensors(part_of(folder, MASKS))["a"].float())


class StateGenerator:
    """Encodes passages for one base. `layer`: after which states are written on the exact path.

    States are kept in `kept`, on disk, or where there is none those of passages seen lately in memory (some 200,000 tokens);
    `forget` removes those of a deleted document.
    """

    def __init__(self, base: BaseLLM, prompts: PromptBuilder, layer: int, plain: PlainPath | None = None) -> None:
        self.base, self.prompts, self.layer, self.plain = base, prompts, layer, plain
        self.kept: KeptStates | None = None
        self._encoder = PassageEncoder(base, prompts)
        self._cache: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._spaces: dict[int, bytes] = {}

    @property
    def cached_tokens(self) -> int:
        """Rows held in memory, all passages and layers together."""
        with self._lock:
            return sum(map(len, self._cache.values()))

    def space(self, layer: int) -> bytes:
        """What the states after `layer` depend on beside the passage, as a hash: under which they are kept. The batch and
        whether the opening was run with the passage do not count: they move states by rounding only."""
        if layer not in self._spaces:
            parts = (lower_weights_hash(self.base.model, layer), layer, self.prompts.context([""]).open_ids)
            self._spaces[layer] = hashlib.sha256(repr(parts).encode()).digest()
        return self._spaces[layer]

    def forget(self, texts: Iterable[str]) -> None:
        """Drop the states of these passages (after every layer) from memory and from the disk."""
        gone = set(texts)
        with self._lock:
            for key in [key for key in self._cache if key[0] in gone]:
                del self._cache[key]
        if self.kept is not None:
            self.kept.forget(gone)

    def keep(self, passages: Iterable[str], on_done: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Encode those passages that are not on disk yet, in batches, and keep them there; returns how many.

        on_done: told how many of them are done. A run that is killed keeps its finished batches. Raises ConfigError without
        `kept`.
        """
        if self.kept is None:
            raise ConfigError("there is nowhere to keep states; give the generator a `KeptStates`")
        space, done = self.space(self.layer), 0
        missing = self.kept.missing(space, (text for text in passages if text.strip()))
        for batch in self._batches(missing):
            self.kept.write(space, self._encoder.states(batch, [self.layer])[self.layer])
            done += len(batch)
            on_done(done, len(missing))
        return done

    @torch.inference_mode()
    def rows(self, passages: Sequence[str], layer: int | None = None) -> list[Tensor]:
        """States (n, D) after `layer` of each passage's tokens. Passages seen before come from memory or disk."""
        layer = self.layer if layer is None else layer
        found = self._remembered(passages, layer) if self.kept is None else self.kept.read(self.space(layer), passages)
        for batch in self._batches(text for text in dict.fromkeys(passages) if text not in found):
            made = self._encoder.states(batch, [layer])[layer]
            if self.kept is not None:
                self.kept.write(self.space(layer), made)
                made = {text: from_int8(*to_int8(rows)) for text, rows in made.items()}  # as it will be read
            found |= made
        if self.kept is None:
            self._remember({text: found[text] for text in passages}, layer)
        return [found[text] for text in passages]

    def _remembered(self, passages: Sequence[str], layer: int) -> dict[str, Tensor]:
        with self._lock:
            return {text: self._cache[text, layer] for text in passages if (text, layer) in self._cache}

    def _remember(self, found: dict[str, Tensor], layer: int) -> None:
        with self._lock:
            for text, rows in found.items():
                self._cache[text, layer] = rows
                self._cache.move_to_end((text, layer))
            total = sum(map(len, self._cache.values()))
            while total > _CACHED_TOKENS and len(self._cache) > 1:
                total -= len(self._cache.popitem(last=False)[1])

    def _batches(self, texts: Iterable[str]) -> Iterator[dict[str, list[int]]]:
        """Tokenized passages of like length together, as many as `_BATCH_TOKENS` allow, at least one."""
        tokens = self._encoder.tokenized(texts)
        batch: dict[str, list[int]] = {}
        for text in sorted(tokens, key=lambda text: len(tokens[text])):  # the next one is the longest
            if batch and (len(batch) + 1) * len(tokens[text]) > _BATCH_TOKENS:
                yield batch
                batch = {}
            batch[text] = tokens[text]
        if batch:
            yield batch

    def states(
        self, passages: Sequence[str], whole: Sequence[str] | None = None, layer: int | None = None, *, round_to: int = 1
    ) -> StateAdapter:
        """The exact path's adapter for passages in their order. Raises InputError when they hold no text.

        whole: where the passages hold chosen sentences only, those that they were cut from, in the same order. Their rows are
        then taken from the whole passages': each sentence was read in its place, and what is kept of a passage serves any choice.
        layer: None takes the generator's. round_to: as for `PromptBuilder.context`; the filler's rows are the same for every
        passage.
        """
        layer = self.layer if layer is None else layer
        rows = self._rows_of(passages, whole, layer, round_to)
        if not sum(map(len, rows)):
            raise InputError(_NO_TEXT)
        return StateAdapter(torch.cat([each.float().cpu() for each in rows]), layer, self.base.identity)

    def _rows_of(self, passages: Sequence[str], whole: Sequence[str] | None, layer: int, round_to: int) -> list[Tensor]:
        if whole is None or list(whole) == list(passages):
            found = self.rows(passages, layer)
        else:
            found = self._cut_rows(passages, whole, layer)
        if round_to == 1:
            return found
        (filling,) = self.rows([filler(round_to)], layer)
        return [torch.cat([rows, filling[: rounded(len(rows), round_to) - len(rows)].to(rows)]) for rows in found]

    @torch.inference_mode()
    def _cut_rows(self, parts: Sequence[str], whole: Sequence[str], layer: int) -> list[Tensor]:
        """Rows of the sentences `parts` of passages. A part with tokens that its passage does not have (those of a sentence that
        begins a line) is encoded by itself, and not kept."""
        places = [self._places(part, text) for part, text in zip(parts, whole, strict=True)]
        used = [text for text, at in zip(whole, places, strict=True) if at]
        found = dict(zip(used, self.rows(used, layer), strict=True)) if used else {}
        alone = [part for part, at in zip(parts, places, strict=True) if at is None]
        made = self._encoder.states(self._encoder.tokenized(alone), [layer])[layer] if alone else {}
        empty = torch.zeros(0, self.base.model.config.hidden_size)
        return [
            made[part] if at is None else found[text][torch.tensor(at, device=found[text].device)] if at else empty
            for part, text, at in zip(parts, whole, places, strict=True)
        ]

    def _places(self, part: str, whole: str) -> list[int] | None:
        """Which tokens of a passage are those of `part`, some of its sentences; None where its tokens are others."""
        ids, at = self.prompts.document_ids(whole), 0
        places: list[int] = []
        for sentence in sentences(part):
            wanted = self.prompts.document_ids(sentence)
            found = next((n for n in range(at, len(ids) - len(wanted) + 1) if ids[n : n + len(wanted)] == wanted), None)
            if found is None:
                return None
            at = found + len(wanted)
            places += range(found, at)
        return places if [ids[place] for place in places] == self.prompts.document_ids(part) else None

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
    def plain_lora(self, passages: Sequence[str], whole: Sequence[str] | None = None, *, round_to: int = 1) -> LoraWeights:
        """A PEFT adapter for any LoRA server: rank = number of masks, one down projection, alpha = rank. whole, round_to: as for
        `states`.

        Raises InputError for more tokens than numbered masks, ConfigError for a base whose layers norm the MLP's output.
        """
        if not adds_mlp_output(self.base.model):
            raise ConfigError(f"{self.base.model.config.model_type} norms its MLP's output, so a LoRA there cannot write states")
        lengths = [rounded(self.prompts.document_length(text), round_to) for text in passages]
        if not sum(lengths):
            raise InputError(_NO_TEXT)
        self.numbered(self.prompts.masked_context(lengths))  # refuses too many before they are encoded
        assert self.plain is not None
        rows = self._rows_of(passages, whole, self.plain.layer, round_to)
        return self.lora_of(torch.cat([each.float().to(self.base.device) for each in rows]), lengths)

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


def noisy(rows: Tensor, sigma: float, text: str) -> Tensor:
    """rows (N, D) with normal noise of `sigma` standard deviations of each of the D values over the rows.

    text: whose rows they are. The noise is drawn from it, so that a passage that is sent twice has the same noise: who gets fresh
    noise each time only has to average.
    """
    if not sigma or len(rows) < 2:
        return rows
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows.device)
    return rows + sigma * rows.float().std(dim=0) * drawn


@dataclass(frozen=True)
class Part:
    """An adapter and the tokens of each of its passages, in order. name: for messages."""

    adapter: LoraWeights | StateAdapter
    passages: Sequence[int]
    name: str = "an adapter"

    def __post_init__(self) -> None:
        if sum(self.passages) != self.adapter.rank:
            raise CheckpointError(
                f"{self.name} has {self.adapter.rank} rows, but its passages have {sum(self.passages)} tokens: files of two "
                "adapters are mixed; encode the documents again"
            )


def joined_states(parts: Sequence[Part]) -> StateAdapter:
    """The exact path's adapter of all parts in their order. Raises CheckpointError for parts that do not belong together."""
    adapters = [part.adapter for part in parts if isinstance(part.adapter, StateAdapter)]
    first = adapters[0]
    for part, other in zip(parts, adapters, strict=True):
        first.base.require(other.base, part.name)
        if other.layer != first.layer:
            raise CheckpointError(f"{part.name} was written after layer {other.layer}, the first after {first.layer}")
    return StateAdapter(torch.cat([adapter.rows for adapter in adapters]), first.layer, first.base)


def joined_lora(states: StateGenerator, parts: Sequence[Part]) -> LoraWeights:
    """The PEFT adapter of all parts in their order, as if their passages had been encoded together.

    Raises InputError for more tokens than the base has masks, CheckpointError for an adapter of another base or generator.
    """
    wanted = []
    for part in parts:
        adapter = part.adapter
        if not isinstance(adapter, LoraWeights) or not adapter.writes_states:
            raise CheckpointError(
                f"{part.name} is no state adapter, so it has no rows of its own; put its documents in one adapter"
            )
        adapter.base.require(states.base.identity, part.name)
        (pair,) = adapter.modules.values()
        wanted.append(states.present(part.passages) + adapter.scaling * pair.b.float().T)
    return states.lora_of(torch.cat(wanted), [length for part in parts for length in part.passages])
