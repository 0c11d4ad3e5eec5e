"""DyPRAG's translator (Tan et al. 2025, arXiv 2503.23895): one document -> one LoRA, by a small hypernetwork.

B = prompts   S = documents of a prompt (padded)   D = width of the base   L = layers   r = rank   p = intermediate size

  each document alone --frozen base LLM, last layer, last token--> embedding (D)
  for each target module, and for its A and its B, one network shared by all layers:
    [embedding ; layer number] (D + 1) --linear, ReLU--> (p) --linear--> flat A (r d_in) or flat B (d_out r)
  a prompt's A is the mean of its documents' A, and its B the mean of their B

It is trained to imitate PRAG's adapters (baselines/dyprag.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distilledprag.base.architecture import hidden_states
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import InputError
from distilledprag.generators.document_states import DocumentStates
from distilledprag.generators.interface import (
    GeneratorSettings,
    ParameterGenerator,
    adapter_modules,
    adapter_sizes,
    register,
)
from distilledprag.lora.weights import LoraBatch


class DypragSettings(GeneratorSettings):
    """Defaults are the paper's; rank and alpha are those of the PRAG adapters that are imitated."""

    architecture: Literal["dyprag"] = "dyprag"
    alpha: float = Field(32.0, gt=0)
    intermediate: int = Field(32, gt=0)


@register(DypragSettings)
class DypragTranslator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when a module's size differs between layers."""

    settings: DypragSettings

    def __init__(self, settings: DypragSettings, base: BaseLLM) -> None:
        super().__init__(settings, base)
        self.modules_of_base = adapter_modules(base, settings)
        self.sizes = adapter_sizes(base, settings)
        width = int(base.model.config.hidden_size)
        self.networks_a, self.networks_b = nn.ModuleDict(), nn.ModuleDict()
        for module, (d_in, d_out) in self.sizes.items():
            self.networks_a[module] = _network(width + 1, settings.intermediate, settings.rank * d_in)
            self.networks_b[module] = _network(width + 1, settings.intermediate, settings.rank * d_out)

    @torch.no_grad()
    def encode(self, base: BaseLLM, passages: Sequence[Sequence[str]]) -> DocumentStates:
        """Embeddings (1, B, S, D) of each prompt's documents, each read alone; the mask is False on padding.

        Raises InputError for a prompt without documents.
        """
        if not all(passages):
            raise InputError("a prompt has no document to make an adapter from; pass at least one passage")
        rows = [[self._embedding(base, text) for text in texts] for texts in passages]
        longest = max(map(len, rows))
        states = torch.zeros(1, len(rows), longest, int(base.model.config.hidden_size), device=base.device)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=base.device)
        for place, row in enumerate(rows):
            states[0, place, : len(row)] = torch.stack(row)
            mask[place, : len(row)] = True
        return DocumentStates(states, mask)

    def _embedding(self, base: BaseLLM, text: str) -> Tensor:
        """(D,) float32: the state of the document's last token."""
        context = self.prompts.context([text])
        if not any(context.is_document):
            raise InputError("a document has no text to encode; leave it out")
        last = len(context) - 1 - context.is_document[::-1].index(True)
        ids = torch.tensor([context.open_ids[: last + 1]], device=base.device)
        return hidden_states(base.model, input_ids=ids)[0, -1].float()

    def forward(self, documents: DocumentStates) -> LoraBatch:
        """The averaged LoRA of each prompt. Raises InputError when a row has no document."""
        documents.require_text()
        settings, modules = self.settings, {}
        embeddings = documents.states[-1]  # (B, S, D)
        weights = documents.mask.float() / documents.mask.sum(dim=1, keepdim=True)  # (B, S), each row adds up to 1
        for key, number, module in self.modules_of_base:
            d_in, d_out = self.sizes[module]
            layer = torch.full_like(embeddings[..., :1], float(number))
            inputs = torch.cat([embeddings, layer], dim=-1)  # (B, S, D + 1)
            flat_a = (self.networks_a[module](inputs) * weights[..., None]).sum(dim=1)  # (B, r d_in)
            flat_b = (self.networks_b[module](inputs) * weights[..., None]).sum(dim=1)  # (B, d_out r)
            modules[key] = (flat_a.unflatten(-1, (settings.rank, d_in)), flat_b.unflatten(-1, (d_out, settings.rank)))
        return LoraBatch(modules, settings.alpha / settings.rank)


def _network(width: int, intermediate: int, flat: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, intermediate), nn.ReLU(), nn.Linear(intermediate, flat))
