"""The paper's generator (arXiv 2509.01088, section on the parameter generator; sizes of the released configuration).

    B = prompts   S = document tokens   E = encoder dimension   L = layers   r = rank

      passages --frozen encoder--> states (B, S, E)
      for each target module, a stack of its own:
        learnable queries (L, E) --cross-attention to the states--> self-attention encoder over the L queries
        --FFN (ReLU), shared by all layers--> (B, L, r (d_in + d_out)) = A and B of every layer
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
from transformers import AutoModel, AutoTokenizer

from distilledprag.base_model import BaseModel
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.generator.base_states import base_document_states
from distilledprag.generator.interface import DocumentStates, GeneratorSettings, ParameterGenerator, module_shapes
from distilledprag.lora.batch import LoraBatch
from distilledprag.prompts import PromptBuilder


class PaperSettings(GeneratorSettings):
    """Defaults are the released configuration. `encoder`: hub id or folder, or "base"; `encoder_tokens`: longest text."""

    architecture: Literal["paper"] = "paper"
    encoder: str = "google/long-t5-tglobal-base"
    encoder_tokens: int = Field(4096, gt=0)
    projector_hidden: int = Field(1024, gt=0)
    heads: int = Field(8, gt=0)
    cross_layers: int = Field(1, gt=0)
    encoder_layers: int = Field(1, gt=0)


class PaperGenerator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when a module's size differs between layers, CheckpointError when
    the encoder cannot be loaded."""

    frozen_parts = ("encoder",)

    def __init__(self, settings: PaperSettings, base: BaseModel) -> None:
        super().__init__()
        self.settings: PaperSettings = settings
        self.base_identity = base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        self.reads_base = settings.encoder == "base"
        self.shapes = module_shapes(base.model, settings.target_modules)
        if self.reads_base:
            width = base.model.config.hidden_size
        else:
            self.encoder, self.encoder_tokenizer = _load_encoder(settings.encoder)
            width = self.encoder.config.hidden_size
        if width % settings.heads:
            raise ConfigError(f"the encoder's width {width} cannot be split into {settings.heads} heads; change heads")
        layers = base.model.config.num_hidden_layers
        self.stacks = nn.ModuleDict()
        for module in settings.target_modules:
            sizes = {(shape.d_in, shape.d_out) for shape in self.shapes if shape.module == module}
            if len(sizes) != 1:
                raise ConfigError(f"the paper generator needs {module} of one size in all layers, found {sorted(sizes)}")
            d_in, d_out = sizes.pop()
            self.stacks[module] = ModuleStack(settings, width, layers, settings.rank * (d_in + d_out))
        self.scale = nn.Parameter(torch.tensor(-8.0))

    @torch.no_grad()
    def encode(self, base: BaseModel, passages: Sequence[Sequence[str]]) -> DocumentStates:
        """States of the concatenated passages, N = 1 for an external encoder."""
        if self.reads_base:
            return base_document_states(base, self.prompts, passages)
        tokens = self.encoder_tokenizer(
            ["\n".join(texts) for texts in passages],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.settings.encoder_tokens,
        ).to(self.scale.device)
        self.encoder.eval()
        states = self.encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return DocumentStates(states[None], tokens.attention_mask.bool())

    def forward(self, documents: DocumentStates) -> LoraBatch:
        states, rank = documents.states[-1].to(self.scale.dtype), self.settings.rank  # (B, S, E)
        strength = 1e-4 + 0.9999 * torch.sigmoid(self.scale)
        flat = {module: stack(states, ~documents.mask) for module, stack in self.stacks.items()}  # (B, L, r (d_in + d_out))
        modules: dict[str, tuple[Tensor, Tensor]] = {}
        for shape in self.shapes:
            values = flat[shape.module][:, shape.layer]
            a = values[:, : rank * shape.d_in].unflatten(-1, (rank, shape.d_in))
            b = values[:, rank * shape.d_in :].unflatten(-1, (shape.d_out, rank)) * strength
            modules[shape.key] = (a, b)
        return LoraBatch(modules, self.settings.alpha / rank)


class ModuleStack(nn.Module):
    """Queries, cross-attention, self-attention encoder and projector of one target module."""

    def __init__(self, settings: PaperSettings, width: int, layers: int, flat: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(layers, width) * 0.02)
        self.cross = nn.ModuleList(
            nn.MultiheadAttention(width, settings.heads, batch_first=True) for _ in range(settings.cross_layers)
        )
        layer = nn.TransformerEncoderLayer(width, settings.heads, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, settings.encoder_layers, enable_nested_tensor=False)
        self.projector = nn.Sequential(
            nn.Linear(width, settings.projector_hidden), nn.ReLU(), nn.Linear(settings.projector_hidden, flat)
        )

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        """states (B, S, E), padding (B, S) True where there is no token -> (B, L, r (d_in + d_out))."""
        queries = self.queries.expand(states.size(0), -1, -1)
        for attention in self.cross:
            queries = attention(queries, states, states, key_padding_mask=padding, need_weights=False)[0]
        return self.projector(self.encoder(queries))


def _load_encoder(path_or_id: str) -> tuple[nn.Module, object]:
    """A frozen encoder in evaluation mode and its tokenizer; of an encoder-decoder, the encoder."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_id)
        model = AutoModel.from_pretrained(path_or_id)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the document encoder {path_or_id} cannot be loaded ({type(error).__name__}: {error}); give a folder or a hub "
            "id that can be reached, or `encoder: base`"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return model.eval().requires_grad_(False), tokenizer
