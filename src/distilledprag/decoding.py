"""Greedy decoding with an adapter per prompt.

B = prompts, T = tokens of the longest prompt. Prompts are padded on the left, so that every row ends at the same column.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from distilledprag.base.llm import BaseLLM
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject, written_states
from distilledprag.lora.states import StateAdapter

MAX_ANSWER_TOKENS = 64


@torch.no_grad()
def greedy_ids(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter | None] | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, row by row, without the stop token. Mask tokens are never written.

    adapters: one LoRA per prompt (or one for all), or None for the bare base model.
    states: one state adapter (or None) per prompt, with a row for every mask of its prompt.
    Raises InputError for a state adapter that does not fit its prompt or the base (see `written_states`).
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
            changes.enter_context(written_states(base.model, states, ids == base.mask_token_id))
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


def greedy_texts(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter | None] | None = None,
) -> list[str]:
    """`greedy_ids` as text, without special tokens and surrounding space."""
    answers = greedy_ids(base, prompts, adapters, stop_id, max_tokens, states)
    return [base.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
