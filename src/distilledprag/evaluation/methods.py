"""The compared methods behind one interface: a batch of questions -> prompts and adapters. One prompt template, one
decoding, one token budget for all of them.

A parametric method X (an adapter made from documents) also runs as `rag_X` (plaintext and adapter) and `shuffled_X` (the
control: this question's prompt, the adapter of another question's documents).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from distilledprag.base.llm import BaseLLM
from distilledprag.baselines.augmented import AugmentedDocument
from distilledprag.baselines.recipes import PromptStyle
from distilledprag.baselines.store import PragAdapters
from distilledprag.baselines.training import styled_prompt
from distilledprag.errors import ConfigError, InputError
from distilledprag.generators import ParameterGenerator
from distilledprag.generators.interface import mask_row_of
from distilledprag.lora.batch import LoraBatch
from distilledprag.prompts import PromptBuilder

GENERATED = ("distilled_paper", "dyprag")
PARAMETRIC = (*GENERATED, "prag")


@dataclass(frozen=True)
class Item:
    """One question. `other_documents`: another question's, for the shuffled control. `augmented`, `other_augmented`: the same
    documents with rewrites and questions about them, in the same order, for PRAG; empty where it does not run."""

    question: str
    answer: str
    documents: tuple[str, ...]
    other_documents: tuple[str, ...]
    augmented: tuple[AugmentedDocument, ...] = ()
    other_augmented: tuple[AugmentedDocument, ...] = ()


@dataclass
class Setting:
    """What methods work with. `generators`: by parametric method's name (`shuffled`: of the control of that name; else the
    paper's). `prag`: makes PRAG's adapters. `styles`: methods that deviate from the masked prompt."""

    base: BaseLLM
    prompts: PromptBuilder
    generators: dict[str, ParameterGenerator]
    prag: PragAdapters | None = None
    styles: dict[str, PromptStyle] = field(default_factory=dict)


Prepared = tuple[list[list[int]], LoraBatch | None]
Method = Callable[[Setting, list[Item]], Prepared]


def closed_book(setting: Setting, items: list[Item]) -> Prepared:
    """No documents at all."""
    return [setting.prompts.closed_book(item.question) for item in items], None


def rag(setting: Setting, items: list[Item]) -> Prepared:
    """The documents in plaintext."""
    return [setting.prompts.build(item.question, item.documents).open_ids for item in items], None


def _generator(setting: Setting, name: str) -> ParameterGenerator:
    if name not in setting.generators:
        raise ConfigError(f"{name} needs a generator; give its checkpoint, or leave the method out")
    return setting.generators[name]


def adapters_of(setting: Setting, name: str, items: list[Item], shuffled: bool = False) -> LoraBatch:
    """One adapter per item, made by the parametric method `name` (or `shuffled`) from the item's or the other documents.

    Raises ConfigError when what the method needs is missing, InputError when PRAG has nothing to train on.
    """
    with torch.no_grad():
        if name != "prag":
            module = _generator(setting, name)
            chosen = [item.other_documents if shuffled else item.documents for item in items]
            return module(module.encode(setting.base, chosen))
    if setting.prag is None:
        raise ConfigError("prag needs its settings (how its adapters are trained); give them, or leave the method out")
    augmented = [item.other_augmented if shuffled else item.augmented for item in items]
    for item, documents in zip(items, augmented, strict=True):
        if not documents:
            raise InputError(f"prag needs questions about the documents; there are none for {item.question[:60]!r}")
    return LoraBatch.stack([setting.prag.combined(documents) for documents in augmented]).to(device=setting.base.device)


def prepare_adapters(setting: Setting, method: str, items: list[Item]) -> dict[str, float]:
    """Fine-tune what PRAG needs for these questions and does not have yet: `documents` of them took `seconds`."""
    if NEEDS.get(method) != "prag" or setting.prag is None:
        return {}
    shuffled = method.startswith("shuffled")
    began = time.perf_counter()
    made = setting.prag.prepare(d for item in items for d in (item.other_augmented if shuffled else item.augmented))
    return {"documents": made, "seconds": time.perf_counter() - began} if made else {}


def _parametric(name: str, method: str, shuffled: bool = False, style: PromptStyle = "masked") -> Method:
    def run(setting: Setting, items: list[Item]) -> Prepared:
        chosen = setting.styles.get(method, setting.styles.get(name, style) if shuffled else style)
        prompts = [styled_prompt(setting.prompts, item.question, item.documents, chosen) for item in items]
        if name in setting.generators and setting.generators[name].settings.mask == "none":
            prompts = [[token for token in prompt if token != setting.prompts.mask_token_id] for prompt in prompts]
        return prompts, adapters_of(setting, name, items, shuffled)

    return run


def shuffled(setting: Setting, items: list[Item]) -> Prepared:
    """Control: this question's masked prompt, the LoRA of the paper's generator for another question's documents."""
    name = "shuffled" if "shuffled" in setting.generators else "distilled_paper"
    return _parametric(name, "shuffled", shuffled=True)(setting, items)


def deviations(setting: Setting, methods: Sequence[str]) -> dict[str, str]:
    """How methods deviate from the one prompt, for the table: their style, their kind of mask."""
    found: dict[str, list[str]] = {}
    for method in methods:
        own = setting.styles.get(method)
        if style := own or (setting.styles.get(NEEDS[method]) if method.startswith("shuffled") else None):
            found[method] = [style]
        generator = setting.generators.get(NEEDS.get(method, ""))
        if generator is not None and generator.settings.mask != "statistics":
            found.setdefault(method, []).append(f"{generator.settings.mask} mask")
    return {method: ", ".join(what) for method, what in found.items()}


def require_architecture(name: str, generator: ParameterGenerator) -> ParameterGenerator:
    """The generator. Raises ConfigError when it is not of the kind that the method `name` stands for."""
    wanted = _short(name)
    if generator.settings.architecture != wanted:
        raise ConfigError(
            f"{name} needs a generator of architecture {wanted}; this checkpoint's is {generator.settings.architecture}"
        )
    return generator


def mask_row(setting: Setting, method: str) -> torch.Tensor | None:
    """The mask embedding (D,) that the method's generator was trained with, where it is not the installed one."""
    return mask_row_of(setting.generators.get(NEEDS.get(method, "")))


def _short(name: str) -> str:
    return name.removeprefix("distilled_")


METHODS: dict[str, Method] = {
    "closed_book": closed_book,
    "rag": rag,
    **{name: _parametric(name, name) for name in PARAMETRIC},
    **{f"rag_{name}": _parametric(name, f"rag_{name}", style="open") for name in PARAMETRIC},
    "shuffled": shuffled,
    **{f"shuffled_{_short(name)}": _parametric(name, f"shuffled_{_short(name)}", shuffled=True) for name in PARAMETRIC},
}
NEEDS: dict[str, str] = {
    **{name: name for name in PARAMETRIC},
    **{f"rag_{name}": name for name in PARAMETRIC},
    "shuffled": "distilled_paper",
    **{f"shuffled_{_short(name)}": name for name in PARAMETRIC},
}
"""The parametric method whose generator (or PRAG adapters) a method needs."""
USUAL = ("closed_book", "rag", *PARAMETRIC, "shuffled")
"""What runs when no methods are named."""
