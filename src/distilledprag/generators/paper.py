"""The paper's generator (arXiv 2509.01088, section on the parameter generator), as its authors released it.

B = prompts   S = document tokens   E = encoder dimension   L = layers   r = rank

  passages --frozen encoder--> states (B, S, E) --layer norm-->
  for each target module, a stack of its own:
    learnable queries (L, E) --cross-attention to the states--> self-attention encoder over the L queries
    --feed-forward (ReLU, no biases), shared by all layers--> (B, L, r (d_in + d_out)) = A and B of every layer
  B is multiplied by one learned scalar 1e-4 + 0.9999 sigmoid(s), s starting at -8

The encoder is any Hugging Face model (LongT5 by default; of an encoder-decoder, the encoder), or `base`: the frozen base
LLM's own last-layer states, for machines on which no pretrained encoder is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distilledprag.base.llm import BaseLLM
from distilledprag.errors import ConfigError
from distilledprag.generators.document_states import DocumentStates, TextEncoder, base_document_states
from distilledprag.generators.interface import (
    GeneratorSettings,
    ParameterGenerator,
    adapter_modules,
    adapter_sizes,
    register,
)
from distilledprag.lora.weights import LoraBatch


class PaperSettings(GeneratorSettings):
    """Defaults are the released configuration; alpha / rank is 1 because that code ignores it.

    `encoder`: hub id or folder, or "base"; `encoder_tokens`: longest text; `feed_forward` and `dropout`: of the
    self-attention encoder over the queries; `scale_start`: s at step 0, which a short run cannot move far from there.
    """

    architecture: Literal["paper"] = "paper"
    encoder: str = Field("google/long-t5-tglobal-base", min_length=1)
    encoder_tokens: int = Field(4096, gt=0)
    projector_hidden: int = Field(1024, gt=0)
    heads: int = Field(8, gt=0)
    cross_layers: int = Field(1, gt=0)
    encoder_layers: int = Field(1, gt=0)
    feed_forward: int = Field(1024, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    scale_start: float = -8.0


@register(PaperSettings)
class PaperGenerator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when a module's size differs between layers, CheckpointError when
    the encoder cannot be loaded."""

    settings: PaperSettings

    def __init__(self, settings: PaperSettings, base: BaseLLM) -> None:
        super().__init__(settings, base)
        self.modules_of_base = adapter_modules(base, settings)
        self.sizes = adapter_sizes(base, settings)
        self.reads_base = settings.encoder == "base"
        if self.reads_base:
            width = base.model.config.hidden_size
        else:
            self.encoder = TextEncoder.load(settings.encoder, settings.encoder_tokens)
            self.encoder_fingerprint, width = self.encoder.fingerprint, self.encoder.width
        if width % settings.heads:
            raise ConfigError(f"the encoder's width {width} cannot be split into {settings.heads} heads; change heads")
        self.document_norm = nn.LayerNorm(width)
        self.stacks = nn.ModuleDict()
        for module, (d_in, d_out) in self.sizes.items():
            layers = base.model.config.num_hidden_layers
            self.stacks[module] = ModuleStack(settings, width, layers, settings.rank * (d_in + d_out))
        self.scale = nn.Parameter(torch.tensor(settings.scale_start))

    @torch.no_grad()
    def encode(self, base: BaseLLM, passages: Sequence[Sequence[str]]) -> DocumentStates:
        """States of each prompt's concatenated passages; N = 1 for an external encoder, layers + 1 for the base.

        Raises InputError for a prompt without any text.
        """
        if self.reads_base:
            return base_document_states(base, self.prompts, passages)
        return self.encoder.encode(["\n".join(texts) for texts in passages], self.scale.device)

    def forward(self, documents: DocumentStates) -> LoraBatch:
        """Only the last of the N states is read. Raises InputError when a row has no document token."""
        documents.require_text()
        states, rank = self.document_norm(documents.states[-1].to(self.scale.dtype)), self.settings.rank  # (B, S, E)
        scale = 1e-4 + 0.9999 * torch.sigmoid(self.scale)
        flat = {module: stack(states, ~documents.mask) for module, stack in self.stacks.items()}  # (B, L, r (d_in + d_out))
        modules: dict[str, tuple[Tensor, Tensor]] = {}
        for key, layer, module in self.modules_of_base:
            d_in, d_out = self.sizes[module]
            values = flat[module][:, layer]
            a = values[:, : rank * d_in].unflatten(-1, (rank, d_in))
            b = values[:, rank * d_in :].unflatten(-1, (d_out, rank)) * scale
            modules[key] = (a, b)
        return LoraBatch(modules, self.settings.alpha / rank)


class ModuleStack(nn.Module):
    """Queries, cross-attention, self-attention encoder and projector of one target module."""

    def __init__(self, settings: PaperSettings, width: int, layers: int, flat: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(layers, width))
        self.cross = nn.ModuleList(
            nn.MultiheadAttention(width, settings.heads, batch_first=True) for _ in range(settings.cross_layers)
        )
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, settings.feed_forward, settings.dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, settings.encoder_layers, enable_nested_tensor=False)
        self.projector = nn.Sequential(
            nn.Linear(width, settings.projector_hidden, bias=False),
            nn.ReLU(),
            nn.Linear(settings.projector_hidden, flat, bias=False),
        )

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        """states (B, S, E), padding (B, S) True where there is no token -> (B, L, r (d_in + d_out))."""
        queries = self.queries.expand(states.size(0), -1, -1)
        for attention in self.cross:  # no residual connection and no norm around it, as released
            queries = attention(queries, states, states, key_padding_mask=padding, need_weights=False)[0]
        flat: Tensor = self.projector(self.encoder(queries))
        return flat
