"""Greedy decoding with an adapter per prompt.

B = prompts, T = tokens of the longest prompt. Prompts are padded on the left, so that every row ends at the same column.
Knows nothing about documents, retrieval or where the adapters come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from distilledprag.base.architecture import changed_layer_output
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import InputError
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject
from distilledprag.lora.states import StateAdapter

MAX_ANSWER_TOKENS = 64


@torch.no_grad()
def greedy_ids(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter] | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, row by row, without the stop token. Mask tokens are never written.

    adapters: one LoRA per prompt (or one for all), or None for the bare base model.
    states: one state adapter per prompt, all of one layer, with a row for every mask of its prompt.
    """
    longest = max(len(prompt) for prompt in prompts)
    pad = base.tokenizer.pad_token_id if base.tokenizer.pad_token_id is not None else stop_id
    ids = torch.full((len(prompts), longest), pad)
    attention = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        attention[row, longest - len(prompt) :] = 1
    generate: Any = base.model.generate
    with contextlib.ExitStack() as changes:
        if adapters is not None:
            changes.enter_context(inject(base.model, adapters))
        if states is not None:
            changes.enter_context(written_states(base, ids.to(base.device), states))
        output = generate(
            input_ids=ids.to(base.device),
            attention_mask=attention.to(base.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=stop_id,
            pad_token_id=pad,
        )
    answers = output[:, longest:].tolist()
    return [answer[: answer.index(stop_id)] if stop_id in answer else answer for answer in answers]


@contextlib.contextmanager
def written_states(base: BaseLLM, ids: Tensor, states: Sequence[StateAdapter]) -> Iterator[None]:
    """While the block runs, the pass over ids (B, T) has the adapters' rows after their layer at its masks, in order.

    Raises InputError when a prompt has more or fewer masks than its adapter rows.
    """
    places = ids == base.mask_token_id
    for row, (count, adapter) in enumerate(zip(places.sum(1).tolist(), states, strict=True)):
        if count != adapter.count:
            raise InputError(f"prompt {row} has {count} masks, its adapter {adapter.count} rows; send those made together")
    rows = torch.cat([adapter.rows for adapter in states]).to(device=base.device, dtype=base.model.dtype)

    def write(hidden: Tensor) -> Tensor:
        if hidden.shape[:2] != ids.shape:
            return hidden  # one more token of an answer
        return hidden.masked_scatter(places[..., None], rows)

    with changed_layer_output(base.model, states[0].layer, write):
        yield


def greedy_texts(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter] | None = None,
) -> list[str]:
    """`greedy_ids` as text, without special tokens and surrounding space."""
    answers = greedy_ids(base, prompts, adapters, stop_id, max_tokens, states)
    return [base.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
