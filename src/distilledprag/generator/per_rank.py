"""Our generator: one latent slot for every (layer, module, rank), read from the frozen base LLM's own states.

    L = adapted layers   K = slots of a layer (modules x rank)   W = width   D = base hidden size   N = L + 1 state layers
    B = prompts          S = document tokens                     H = attention heads

      states (N, B, S, D) --layer mix--> keys, values (L, B, S, W)
      slots (L, K, W) --[cross-attention with tiled positions, slot attention, feed-forward] x blocks--> (L, B, K, W)
      slot --head of its layer and module--> one row of A (d_in) and one column of B (d_out): a key-value pair

The base LLM has already understood the passages, so no second encoder has to be aligned with it (Doc-to-LoRA). Slot i of
a module starts out reading around the fraction (i + 1/2) / rank of the passages, so that together the slots cover every
sentence from the first step on and need not learn to share them out. Rows of A that read the residual stream (gate, up)
start out as an echo of the state that their slot reads: a question about a name resembles the passage about that name
before anything is learned. B is zero at step 0: an untrained generator changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from distilledprag.base_model import BaseModel
from distilledprag.errors import ConfigError
from distilledprag.generator.base_states import base_document_states
from distilledprag.generator.interface import DocumentStates, GeneratorSettings, ParameterGenerator, module_shapes
from distilledprag.lora.batch import LoraBatch
from distilledprag.prompts import PromptBuilder


class PerRankSettings(GeneratorSettings):
    """`width` W, `heads` H and `blocks` size the slots' network; `tiling` is how strongly slots start out bound to
    their part of the passages (0: not at all)."""

    architecture: Literal["per_rank"] = "per_rank"
    rank: int = Field(16, gt=0)
    alpha: float = Field(16.0, gt=0)
    width: int = Field(512, gt=0)
    heads: int = Field(8, gt=0)
    blocks: int = Field(2, gt=0)
    tiling: float = Field(1.0, ge=0)


def _matrices(count: int, d_in: int, d_out: int, gain: float = 1.0) -> nn.Parameter:
    """`count` linear maps, stacked (count, d_in, d_out); gain 0 makes them zero."""
    return nn.Parameter(torch.randn(count, d_in, d_out) * gain / math.sqrt(d_in))


class PerRankGenerator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when the base's layers differ in size."""

    reads_base = True
    centres: Tensor  # (K,) where in the passages each slot starts out reading

    def __init__(self, settings: PerRankSettings, base: BaseModel) -> None:
        super().__init__()
        self.settings: PerRankSettings = settings
        self.base_identity = base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        self.shapes = module_shapes(base.model, settings.target_modules)
        modules, layers, width = settings.target_modules, base.model.config.num_hidden_layers, settings.width
        if width % settings.heads:
            raise ConfigError(f"width {width} cannot be split into {settings.heads} heads; choose a multiple")
        sizes = {module: {(s.d_in, s.d_out) for s in self.shapes if s.module == module} for module in modules}
        if any(len(options) != 1 for options in sizes.values()):
            raise ConfigError("the per_rank generator needs layers of one size; this base's layers differ")
        hidden, slots = base.model.config.hidden_size, len(modules) * settings.rank
        self.slots = _matrices(layers, slots, width)
        self.key_mix, self.value_mix = (nn.Parameter(self._initial_mix(layers)) for _ in range(2))
        self.blocks = nn.ModuleList(
            SlotBlock(layers, slots, width, hidden, settings.heads, settings.tiling if not number else 0.0)
            for number in range(settings.blocks)
        )
        positions = (torch.arange(settings.rank) + 0.5) / settings.rank
        self.register_buffer("centres", positions.repeat(len(modules)), persistent=False)  # (K,)
        self.head_a, self.head_b, self.bias_a = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for module, ((d_in, d_out),) in sizes.items():
            self.head_a[module] = self._echo() if d_in == hidden else _matrices(layers, width, d_in, gain=0.5)
            self.head_b[module] = _matrices(layers, width, d_out, gain=0.0)
            self.bias_a[module] = nn.Parameter(torch.randn(layers, settings.rank, d_in) / math.sqrt(d_in))

    def _echo(self) -> nn.Parameter:
        """Heads (L, W, D) that undo the first block's reading: A is then half of the state that the slot reads."""
        block: Any = self.blocks[0]
        return nn.Parameter(0.5 * (block.value @ block.out).detach().transpose(1, 2))

    @staticmethod
    def _initial_mix(layers: int) -> Tensor:
        """(L, N) logits: layer l reads mostly the states that its block of the base has written."""
        mix = torch.zeros(layers, layers + 1)
        mix[torch.arange(layers), torch.arange(layers) + 1] = 2.0
        return mix

    def matrix_parameters(self) -> list[nn.Parameter]:
        """The stacked linear maps, for optimizers that treat matrices in their own way."""
        return [*self.head_a.values(), *self.head_b.values()]

    def encode(self, base: BaseModel, passages: Sequence[Sequence[str]]) -> DocumentStates:
        return base_document_states(base, self.prompts, passages)

    def forward(self, documents: DocumentStates) -> LoraBatch:
        latents, _ = self._latents(documents)
        settings = self.settings
        modules: dict[str, tuple[Tensor, Tensor]] = {}
        for number, module in enumerate(settings.target_modules):
            rows = latents[:, :, number * settings.rank : (number + 1) * settings.rank]  # (L, B, r, W)
            width = rows.size(-1)
            scale = 1 / math.sqrt(width)
            a = torch.einsum("lbrw,lwd->lbrd", rows, self.head_a[module] * scale) + self.bias_a[module][:, None]
            b = torch.einsum("lbrw,lwd->lbdr", rows, self.head_b[module])
            for shape in (s for s in self.shapes if s.module == module):
                modules[shape.key] = (a[shape.layer], b[shape.layer])
        ordered = {shape.key: modules[shape.key] for shape in self.shapes}
        return LoraBatch(ordered, settings.alpha / settings.rank)

    @torch.no_grad()
    def attention_map(self, documents: DocumentStates) -> Tensor:
        """(L, K, S) for the first prompt: the share of its reading that each slot gives to each document token."""
        return self._latents(documents)[1][:, 0]

    def _latents(self, documents: DocumentStates) -> tuple[Tensor, Tensor]:
        """Final slots (L, B, K, W), layer-normalised, and the first block's attention (L, B, K, S)."""
        dtype = self.slots.dtype
        states = functional.layer_norm(documents.states.to(dtype), documents.states.shape[-1:])  # (N, B, S, D)
        keys = torch.einsum("ln,nbsd->lbsd", self.key_mix.softmax(-1), states)
        values = torch.einsum("ln,nbsd->lbsd", self.value_mix.softmax(-1), states)
        mask = documents.mask
        place = (mask.cumsum(1) - 0.5) / mask.sum(1, keepdim=True).clamp(min=1)  # (B, S): 0 first, 1 last document token
        distance = (place[:, None, :].to(dtype) - self.centres[None, :, None].to(dtype)) * self.settings.rank  # (B, K, S)
        closeness = -0.5 * distance.square()
        blocked = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -1e4)[:, None, :]
        latents = self.slots[:, None].expand(-1, states.size(1), -1, -1)  # (L, B, K, W)
        first: Tensor | None = None
        for block in self.blocks:
            latents, attention = block(latents, keys, values, closeness, blocked)
            first = attention if first is None else first
        assert first is not None
        return functional.layer_norm(latents, latents.shape[-1:]), first


class SlotBlock(nn.Module):
    """Cross-attention from slots to document tokens, attention among a layer's slots, feed-forward; weights per layer."""

    def __init__(self, layers: int, slots: int, width: int, hidden: int, heads: int, tiling: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (_matrices(layers, d_in, width) for d_in in (width, hidden, hidden, width))
        for matrix in (*self.value.data, *self.out.data):
            nn.init.orthogonal_(matrix)
        self.slot_qkv, self.slot_out = _matrices(layers, width, 3 * width), _matrices(layers, width, width, gain=0.0)
        self.up, self.down = _matrices(layers, width, 2 * width), _matrices(layers, 2 * width, width, gain=0.0)
        self.tiling = nn.Parameter(torch.full((layers, 1, slots, 1), tiling))

    def matrix_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter is not self.tiling]

    def _split(self, x: Tensor) -> Tensor:
        """(L, B, X, W) -> (L, B, H, X, W / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value = self._split(query), self._split(key), self._split(value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.size(-1))  # (L, B, H, K, S)
        weights = (scores if bias is None else scores + bias[:, :, None]).softmax(-1)
        return (weights @ value).transpose(-3, -2).flatten(-2), weights.mean(2)

    def forward(self, latents: Tensor, keys: Tensor, values: Tensor, closeness: Tensor, blocked: Tensor) -> tuple[Tensor, Tensor]:
        """latents (L, B, K, W); keys, values (L, B, S, D); closeness (B, K, S); blocked (B, 1, S). Returns the new
        latents and the cross-attention (L, B, K, S)."""

        def apply(x: Tensor, matrices: Tensor) -> Tensor:  # (L, B, X, d_in) x (L, d_in, d_out)
            return (x.flatten(1, 2) @ matrices).unflatten(1, x.shape[1:3])

        def normal(x: Tensor) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:])

        bias = self.tiling * closeness + blocked  # (L, B, K, S)
        read, attention = self._attend(apply(normal(latents), self.query), apply(keys, self.key), apply(values, self.value), bias)
        latents = latents + apply(read, self.out)
        query, key, value = apply(normal(latents), self.slot_qkv).chunk(3, dim=-1)
        latents = latents + apply(self._attend(query, key, value, None)[0], self.slot_out)
        return latents + apply(functional.gelu(apply(normal(latents), self.up)), self.down), attention
