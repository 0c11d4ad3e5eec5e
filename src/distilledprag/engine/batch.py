"""The rows that decode together: their key-value caches, aligned at the right end, an adapter per row, and their next tokens.

    row 0   . . . . k k k k k k|        B = rows, K = columns (the longest row's tokens), H = key-value heads, D = head width
    row 1   k k k k k k k k k k|        T = tokens of the longest prompt in a prefill, L = layers, V = vocabulary
    row 2   . . k k k k k k k k|        . = padding, masked: a row never sees another row's tokens, nor its own padding

A LoRA adapter changes modules while its row is there. A state adapter writes states at its prompt's masks during the prefill; the
cache keeps what follows from them, and steps need nothing more.

Prompts are prefilled padded on the right: with causal attention no token sees padding, so no mask is needed there. What is drawn
for a row depends on its own logits and its own random generator only.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from distilledprag.base.architecture import backbone, logits_of, mlp
from distilledprag.engine.jobs import Sampling
from distilledprag.lora.injection import inject_parts, written_states
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch, LoraWeights

ROOM = 64  # columns that a cache is enlarged by

Adapters = Sequence[LoraWeights | StateAdapter | None]


class DecodingBatch:
    """Rows of one causal language model, its only user. Not safe to share between threads. mask_id: where states are written."""

    def __init__(self, model: Any, mask_id: int) -> None:
        self._model, self._mask_id = model, mask_id
        self._backbone: Any = backbone(model)
        self._adapters: list[LoraWeights | StateAdapter | None] = []
        self._lengths: list[int] = []  # tokens of each row in the cache
        self._cache: Any = None
        self._injection = contextlib.ExitStack()
        self._injected = False

    def __len__(self) -> int:
        return len(self._lengths)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]], adapters: Adapters) -> Tensor:
        """Append rows that have read these prompts; returns their next tokens' logits (new rows, V), float32.

        A prompt has as many masks as its state adapter has rows, else InputError.
        """
        self._withdraw()
        states = [adapter if isinstance(adapter, StateAdapter) else None for adapter in adapters]
        cache = preallocated_cache()
        lengths = [len(prompt) for prompt in prompts]
        ids = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
        is_mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(list(prompt))
            is_mask[row, : len(prompt)] = ids[row, : len(prompt)] == self._mask_id
        ids = ids.to(self._model.device)
        ends = torch.tensor(lengths, device=ids.device) - 1
        with contextlib.ExitStack() as injection:
            injection.enter_context(injected(self._model, adapters))
            with self._last_mlp_reads(ends), written_states(self._model, states, is_mask):
                hidden = self._backbone(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state  # (new, T, width)
            if not self._lengths:  # these rows alone take the next step
                self._injection, self._injected = injection.pop_all(), True
        last = hidden[torch.arange(len(prompts), device=ids.device), ends]
        self._append(cache, lengths)
        self._adapters += adapters
        return logits_of(self._model, last)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Every row reads one more token; returns the logits of the next (B, V), float32."""
        if not self._injected:
            self._injection.enter_context(injected(self._model, self._adapters))
            self._injected = True
        device = self._model.device
        positions = torch.tensor(self._lengths).unsqueeze(1)  # (B, 1)
        columns = max(self._lengths) + 1
        mask = None
        if min(self._lengths) + 1 < columns:
            mask = (torch.arange(columns) >= columns - 1 - positions).long().to(device)
        hidden = self._backbone(
            input_ids=torch.tensor(list(tokens)).unsqueeze(1).to(device),
            attention_mask=mask,
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state  # (B, 1, width)
        self._lengths = [length + 1 for length in self._lengths]
        return logits_of(self._model, hidden[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns that no kept row uses."""
        if len(rows) == len(self):
            return
        self._withdraw()
        self._adapters = [self._adapters[row] for row in rows]
        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._cache = None
            return
        index = torch.tensor(list(rows), device=self._model.device)
        columns = max(self._lengths)
        for layer in self._cache.layers:
            layer.keys = layer.keys[:, :, -columns:].index_select(0, index)
            layer.values = layer.values[:, :, -columns:].index_select(0, index)

    def clear(self) -> None:
        """Drop all rows, also after a failure in the middle of a step."""
        self._withdraw()
        self._adapters, self._lengths, self._cache = [], [], None

    def _append(self, cache: Any, lengths: list[int]) -> None:
        """Put freshly prefilled rows, left-aligned in `cache`, under the rows that are here."""
        columns = max([*self._lengths, *lengths])
        device = self._model.device
        # Column c of a row with n tokens holds its token c - (columns - n); before that, padding.
        source = torch.arange(columns) - (columns - torch.tensor(lengths)).unsqueeze(1)  # (new, K)
        index = source.clamp(min=0).to(device)[:, None, :, None]
        padding = (source < 0).to(device)[:, None, :, None]
        for number, layer in enumerate(cache.layers):
            for name in ("keys", "values"):
                fresh = getattr(layer, name)  # (new, H, T, D)
                wide = index.expand(-1, fresh.shape[1], -1, fresh.shape[3])
                aligned = fresh.gather(2, wide).masked_fill(padding, 0)
                if self._cache is not None:
                    old = getattr(self._cache.layers[number], name)  # (B, H, K before, D)
                    old = torch.nn.functional.pad(old, (0, 0, columns - old.shape[2], 0))
                    aligned = torch.cat([old, aligned])
                setattr(layer, name, aligned)
        self._cache = cache
        self._lengths += lengths

    @contextlib.contextmanager
    def _last_mlp_reads(self, ends: Tensor) -> Iterator[None]:
        """The last layer's MLP is computed at each prompt's end (new,) only: nothing else reads what it writes. The decoder adds
        the result (new, 1, width) to all positions, and only those ends are looked at."""

        def at_ends(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = inputs[0]  # (new, T, width)
            return (hidden[torch.arange(len(ends), device=hidden.device), ends.to(hidden.device)].unsqueeze(1), *inputs[1:])

        hook = mlp(self._model, -1).register_forward_pre_hook(at_ends)
        try:
            yield
        finally:
            hook.remove()

    def _withdraw(self) -> None:
        """Take the rows' adapters off the model: they are about to be others."""
        self._injection.close()
        self._injected = False


def stacked_bytes(adapters: Adapters) -> int:
    """Memory of the LoRA adapters of rows that decode together: as they are put side by side, beside the stored ones."""
    groups = _groups(adapters)
    return sum(len(unique) * max(adapter.nbytes for adapter in unique) for unique, _ in groups)


def injected(model: Any, adapters: Adapters) -> contextlib.AbstractContextManager[None]:
    """The model with one LoRA adapter per row (None and state adapters: without)."""
    parts = []
    for unique, rows in _groups(adapters):
        index = torch.full((len(adapters),), -1)
        index[rows] = torch.arange(len(unique)) if len(unique) > 1 else 0
        parts.append((LoraBatch.stack(unique), index))
    return inject_parts(model, parts)


def _groups(adapters: Adapters) -> list[tuple[list[LoraWeights], list[int]]]:
    """LoRA adapters that are put side by side, and their rows: those that change the same modules and have ranks of one power of
    two, so that one of rank 256 does not make all others as large. One of several rows is a group of its own, held once."""
    uses = Counter(id(adapter) for adapter in adapters)
    groups: dict[Hashable, tuple[list[LoraWeights], list[int]]] = {}
    for row, adapter in enumerate(adapters):
        if not isinstance(adapter, LoraWeights):
            continue
        shared = uses[id(adapter)] > 1
        key = id(adapter) if shared else ((adapter.rank - 1).bit_length(), *adapter.modules)
        unique, rows = groups.setdefault(key, ([], []))
        if not (shared and unique):
            unique.append(adapter)
        rows.append(row)
    return list(groups.values())


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer with room for the tokens to come: transformers' own layer copies all of them at every step to
    append one column, this one writes the column.

    `keys` and `values` (B, H, K, D) may be replaced from outside between two calls.
    """

    _room: tuple[Tensor, Tensor] | None = None  # (B, H, more than K, D) each
    _within: Tensor | None = None  # the `keys` that lie in it; others have been put in their place when it is not `keys`

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.keys.numel() == 0:  # a prefill: most of these are put under other rows next
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        begin, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or self._within is not self.keys or end > self._room[0].shape[-2]:
            self._room = (_with_room(self.keys, end + ROOM), _with_room(self.values, end + ROOM))
        for room, fresh in zip(self._room, (key_states, value_states), strict=True):
            room[..., begin:end, :] = fresh
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        self._within = self.keys
        return self.keys, self.values


def preallocated_cache() -> Cache:
    """An empty cache; a layer is made when the model first writes to it."""
    return Cache(layer_class_to_replicate=PreallocatedLayer)


def _with_room(kept: Tensor, columns: int) -> Tensor:
    room = torch.empty(*kept.shape[:-2], columns, kept.shape[-1], dtype=kept.dtype, device=kept.device)
    room[..., : kept.shape[-2], :] = kept
    return room


class Sampler:
    """The way one job's tokens are chosen."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(seed & (2**63 - 1))

    @property
    def greedy(self) -> bool:
        return self._generator is None

    def uniform(self) -> float:
        """The next of its random numbers, in [0, 1); a token uses one."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))


@torch.inference_mode()
def next_tokens(
    logits: Tensor, samplers: Sequence[Sampler], suppressed: Sequence[int], forbidden: Mapping[int, Tensor] | None = None
) -> list[int | None]:
    """One token id per row of `logits` (B, V); None for a row whose logits are not all finite.

    suppressed: ids that are never written. forbidden: of some rows, (V,) whether a token may not come now. `logits` is changed.
    """
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    if suppressed:
        logits[:, list(suppressed)] = -torch.inf
    for row, never in (forbidden or {}).items():
        logits[row, never.to(logits.device)] = -torch.inf
    chosen: list[int | None] = logits.argmax(dim=-1).tolist()
    drawing = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    if drawing:
        drawn = _draw(logits[drawing].float().cpu(), [samplers[row] for row in drawing])
        for row, token in zip(drawing, drawn, strict=True):
            chosen[row] = token
    return [token if finite[row] else None for row, token in enumerate(chosen)]


def likeliest(logprobs: Tensor, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log probability of `token` among `logprobs` (V,), and the `count` likeliest ids with theirs."""
    values, ids = logprobs.topk(count) if count else (logprobs[:0], logprobs[:0])
    top = tuple((int(id), float(value)) for id, value in zip(ids.tolist(), values.tolist(), strict=True))
    return float(logprobs[token]), top


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """A token id per row of `logits` (B, V), float32, on the CPU: the first whose probability, with those of all ids before it,
    passes the row's random number."""
    temperatures = torch.tensor([sampler.sampling.temperature for sampler in samplers])
    temperatures = temperatures.clamp(min=torch.finfo(torch.float32).tiny)  # 1e-160 would be a division by 0
    probabilities = torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperatures[:, None], dim=-1)
    for row, sampler in enumerate(samplers):
        if sampler.sampling.top_p < 1:
            probabilities[row] = _top_p(probabilities[row], sampler.sampling.top_p)
    reached = probabilities.cumsum(-1, dtype=torch.float64)
    whole = reached[:, -1]
    wanted = torch.tensor([sampler.uniform() for sampler in samplers], dtype=torch.float64) * whole
    wanted = torch.minimum(wanted, torch.nextafter(whole, torch.zeros_like(whole)))  # rounding must not pass the last id
    return torch.searchsorted(reached, wanted[:, None], right=True).squeeze(1).tolist()


def _top_p(probabilities: Tensor, share: float) -> Tensor:
    """`probabilities` (V,) of the most probable ids that hold `share` together, at least one; 0 for the others."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered  # of the more probable ids
    kept = ordered.masked_fill(before >= share, 0.0)
    kept[0] = ordered[0]
    return torch.zeros_like(probabilities).scatter(0, order, kept)
