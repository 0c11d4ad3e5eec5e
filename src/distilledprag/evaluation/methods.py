"""The compared methods behind one interface: a batch of questions -> prompts and adapters. One prompt template, one
decoding, one token budget for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distilledprag.base_model import BaseModel
from distilledprag.generator import ParameterGenerator
from distilledprag.lora.batch import LoraBatch
from distilledprag.prompts import PromptBuilder


@dataclass(frozen=True)
class Item:
    """One question. `other_documents`: another question's, for the shuffled control."""

    question: str
    answer: str
    documents: tuple[str, ...]
    other_documents: tuple[str, ...]


@dataclass
class Setting:
    """What methods work with. `generators`: by method name, of those that have one."""

    base: BaseModel
    prompts: PromptBuilder
    generators: dict[str, ParameterGenerator]


Prepared = tuple[list[list[int]], LoraBatch | None]
Method = Callable[[Setting, list[Item]], Prepared]


def closed_book(setting: Setting, items: list[Item]) -> Prepared:
    """No documents at all."""
    return [setting.prompts.closed_book(item.question) for item in items], None


def rag(setting: Setting, items: list[Item]) -> Prepared:
    """The documents in plaintext."""
    return [setting.prompts.build(item.question, item.documents).open_ids for item in items], None


@torch.no_grad()
def _masked(setting: Setting, items: list[Item], generator: str, shuffled: bool = False) -> Prepared:
    chosen = [item.other_documents if shuffled else item.documents for item in items]
    module = setting.generators[generator]
    adapters = module(module.encode(setting.base, chosen))
    return [setting.prompts.build(item.question, item.documents).masked_ids for item in items], adapters


def distilled_per_rank(setting: Setting, items: list[Item]) -> Prepared:
    """Masked prompt and our generator's LoRA."""
    return _masked(setting, items, "distilled_per_rank")


def distilled_paper(setting: Setting, items: list[Item]) -> Prepared:
    """Masked prompt and the paper's generator's LoRA."""
    return _masked(setting, items, "distilled_paper")


def shuffled(setting: Setting, items: list[Item]) -> Prepared:
    """Control: this question's masked prompt, the shipped generator's LoRA for another question's documents."""
    return _masked(setting, items, "shuffled", shuffled=True)


METHODS: dict[str, Method] = {
    "closed_book": closed_book,
    "rag": rag,
    "distilled_per_rank": distilled_per_rank,
    "distilled_paper": distilled_paper,
    "shuffled": shuffled,
}
NEEDS_GENERATOR = frozenset({"distilled_per_rank", "distilled_paper", "shuffled"})
