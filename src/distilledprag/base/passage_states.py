"""Hidden states of passages, each read alone behind the opening of a prompt, as state adapters hold them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distilledprag.base.architecture import hidden_after
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import InputError
from distilledprag.prompts import PromptBuilder


@torch.inference_mode()
def passage_states(
    base: BaseLLM, prompts: PromptBuilder, passages: Sequence[str], layers: Sequence[int]
) -> dict[int, dict[str, Tensor]]:
    """For each of `layers`, by passage: its tokens' states (n, D), n tokens of D values. All passages go in one batch.

    Raises InputError for an unusable text, and for a passage that is longer with its prompt than the base reads.
    """
    built = [prompts.context([text]) for text in passages]
    longest = max(map(len, built))
    if longest > base.context_length:
        raise InputError(f"a passage with its prompt has {longest} tokens; the base reads {base.context_length}: split it")
    ids, attention = padded([prompt.open_ids for prompt in built], prompts.end_of_turn_id, base.device)
    places = [torch.tensor(prompt.is_document, device=base.device) for prompt in built]
    return {
        layer: {text: hidden[row, : len(at)][at] for row, (text, at) in enumerate(zip(passages, places, strict=True))}
        for layer, hidden in hidden_after(base.model, layers, input_ids=ids, attention_mask=attention).items()
    }


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (rows, T), padded on the right to the longest row's T."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    attention = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, attention
