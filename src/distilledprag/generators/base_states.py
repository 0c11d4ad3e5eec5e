"""Document states from the frozen base LLM itself: one forward pass over the open prompt up to the question.

B = prompts, S = context tokens (padded), N = layers + 1, D = hidden size. The states of a document token depend on what
stands before it only, so they are the same ones that the teacher's forward pass computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distilledprag.base.architecture import all_hidden_states
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import InputError
from distilledprag.generators.interface import DocumentStates
from distilledprag.prompts import PromptBuilder


@torch.no_grad()
def base_document_states(base: BaseLLM, prompts: PromptBuilder, passages: Sequence[Sequence[str]]) -> DocumentStates:
    """Hidden states (N, B, S, D) of the base over each prompt's context; the mask is True on document tokens only.

    Raises InputError for a prompt whose passages have no token at all, or more than the base reads.
    """
    contexts = [prompts.context(texts) for texts in passages]
    for number, context in enumerate(contexts, start=1):
        if not any(context.is_document):
            raise InputError(f"prompt {number} of {len(contexts)} has no document text to encode; pass at least one passage")
    longest = max(len(context) for context in contexts)
    if longest > base.context_length:
        raise InputError(
            f"the passages make a prompt of {longest} tokens, {longest - base.context_length} more than the "
            f"{base.context_length} the model reads; use fewer or shorter passages"
        )
    ids = torch.zeros(len(contexts), longest, dtype=torch.long)
    mask = torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        ids[row, : len(context)] = torch.tensor(context.open_ids)
        mask[row, : len(context)] = torch.tensor(context.is_document)
    # Right padding needs no attention mask: a causal model's states never depend on what comes after them.
    states = all_hidden_states(base.model, input_ids=ids.to(base.device))
    return DocumentStates(torch.stack(states), mask.to(base.device))
