"""Our generator: one latent slot for every (layer, module, rank), read from the frozen base LLM's own states.

    L = adapted layers   K = slots of a layer (modules x rank)   W = width   D = base hidden size   N = L + 1 state layers
    B = prompts          S = document tokens                     H = attention heads

      states (N, B, S, D) --layer mix--> keys, values (L, B, S, D)
      slots (L, K, W) --[cross-attention with tiled positions, slot attention, feed-forward] x blocks--> (L, B, K, W)
      slot --head of its layer and module--> one row of A (d_in) and one column of B (d_out): a key-value pair

The base LLM has already understood the passages, so no second encoder has to be aligned with it (Doc-to-LoRA). Slot i of
a module starts out reading around the fraction (i + 1/2) / rank of the passages, so that together the slots cover every
sentence from the first step on and need not learn to share them out.

The base also knows already where in a passage it would look for an answer: that is what the queries and keys of its
attention say. So the LoRA starts out as the base's own attention over the passages, rewritten as a memory in the MLP:
  - rows of A of gate and up are the attention keys of the tokens that their slots read (attention_rows.py), less a
    threshold: A x is large where this base in state x would attend to that token;
  - columns of B of gate and up, and rows of A of down, single out one intermediate unit for each slot: the unit's activation,
    a product of gate and up, grows with the square of that score, which stands in for the softmax;
  - columns of B of down write that token's embedding.
All of this is trained further. `strength` scales every B: it is 0 in an untrained generator, which changes nothing, and
rises to 1 over the first steps of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from distilledprag.base_model import BaseModel
from distilledprag.errors import ConfigError
from distilledprag.generator.attention_rows import READING, WRITING, AttentionRows
from distilledprag.generator.base_states import base_document_states, typical_inputs
from distilledprag.generator.interface import (
    DocumentStates,
    GeneratorSettings,
    ModuleShape,
    ParameterGenerator,
    module_shapes,
)
from distilledprag.lora.batch import LoraBatch
from distilledprag.prompts import PromptBuilder


class PerRankSettings(GeneratorSettings):
    """`layers`: numbers (from 0) of the adapted layers, None for all; `attention`: for each of them the layer whose
    queries and keys its rows of A start from, None for its own; `width` W, `heads` H and `blocks` size the slots' network;
    `tiling` is how strongly slots start out bound to their part of the passages (0: not at all)."""

    architecture: Literal["per_rank"] = "per_rank"
    rank: int = Field(16, gt=0)
    alpha: float = Field(16.0, gt=0)
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    attention: tuple[int, ...] | None = None
    width: int = Field(512, gt=0)
    heads: int = Field(8, gt=0)
    blocks: int = Field(2, gt=0)
    tiling: float = Field(16.0, ge=0)


THRESHOLD = 1.5  # of the scores that a memory answers to, in standard deviations of a score
UNIT_GAIN = 2.0  # what a score adds to its unit
TOKEN_GAIN = 0.3  # length of a written token's embedding, relative to a normalised state
RISING_STEPS = 50  # of training, until the strength is 1


def _matrices(count: int, d_in: int, d_out: int, gain: float = 1.0) -> nn.Parameter:
    """`count` linear maps, stacked (count, d_in, d_out); gain 0 makes them zero."""
    return nn.Parameter(torch.randn(count, d_in, d_out) * gain / math.sqrt(d_in))


class PerRankGenerator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when the base's layers differ in size."""

    reads_base = True
    centres: Tensor  # (K,) where in the passages each slot starts out reading
    look_layers: Tensor  # (L,) the layers whose attention the rows of A start from
    strength: Tensor  # () factor of all B, 0 to 1

    def __init__(self, settings: PerRankSettings, base: BaseModel) -> None:
        super().__init__()
        self.settings: PerRankSettings = settings
        self.base_identity = base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        modules, width = settings.target_modules, settings.width
        self.layers, looks = _checked_layers(settings, base.model.config.num_hidden_layers)
        self.shapes = [s for s in module_shapes(base.model, modules) if s.layer in self.layers]
        if width % settings.heads:
            raise ConfigError(f"width {width} cannot be split into {settings.heads} heads; choose a multiple")
        sizes = {module: {(s.d_in, s.d_out) for s in self.shapes if s.module == module} for module in modules}
        if any(len(options) != 1 for options in sizes.values()):
            raise ConfigError("the per_rank generator needs layers of one size; this base's layers differ")
        hidden, slots, layers = base.model.config.hidden_size, len(modules) * settings.rank, len(self.layers)
        self.slots = _matrices(layers, slots, width)
        self.key_mix, self.value_mix = (nn.Parameter(self._initial_mix(base)) for _ in range(2))
        self.blocks = nn.ModuleList(
            SlotBlock(layers, slots, width, hidden, settings.heads, settings.tiling if not number else 0.0)
            for number in range(settings.blocks)
        )
        positions = (torch.arange(settings.rank) + 0.5) / settings.rank
        self.register_buffer("centres", positions.repeat(len(modules)), persistent=False)  # (K,)
        self.head_a, self.head_b, self.bias_a = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.looks, self.copies = nn.ModuleDict(), nn.ParameterDict()
        self.register_buffer("look_layers", torch.tensor(looks), persistent=False)
        inputs = typical_inputs(base, self.prompts, [shape.key for shape in self.shapes if shape.module in READING])
        self.bias_b = nn.ParameterDict()
        self.register_buffer("strength", torch.tensor(0.0))
        for module, ((d_in, d_out),) in sizes.items():
            self.head_a[module], self.head_b[module] = (_matrices(layers, width, d, gain=0.0) for d in (d_in, d_out))
            bias_a = torch.randn(layers, settings.rank, d_in) / math.sqrt(d_in)
            if module in READING:
                places = list(zip(self.layers, looks, strict=True))
                self.looks[module] = AttentionRows(base.model, module, places, settings.rank)
                usual = torch.stack([inputs[shape.key] for shape in self.shapes if shape.module == module])  # (L, D)
                threshold = THRESHOLD * usual / usual.square().sum(-1, keepdim=True)
                bias_a = -threshold[:, None].repeat(1, settings.rank, 1)
            if module in ("gate_proj", "up_proj"):
                self.bias_b[module] = nn.Parameter(UNIT_GAIN * _units(settings.rank, d_out).repeat(layers, 1, 1))
            if module == "down_proj":
                bias_a = _units(settings.rank, d_in).repeat(layers, 1, 1)
            if module in WRITING:
                self.copies[module] = nn.Parameter(TOKEN_GAIN * torch.eye(hidden).repeat(layers, 1, 1))
            self.bias_a[module] = nn.Parameter(bias_a)

    def _initial_mix(self, base: BaseModel) -> Tensor:
        """(L, N) logits: layer l reads mostly the states that its block of the base has written."""
        mix = torch.zeros(len(self.layers), base.model.config.num_hidden_layers + 1)
        mix[torch.arange(len(self.layers)), torch.tensor(self.layers) + 1] = 2.0
        return mix

    def matrix_parameters(self) -> list[nn.Parameter]:
        """The stacked linear maps, for optimizers that treat matrices in their own way."""
        return [*self.head_a.values(), *self.head_b.values(), *self.copies.values()]

    def encode(self, base: BaseModel, passages: Sequence[Sequence[str]]) -> DocumentStates:
        return base_document_states(base, self.prompts, passages)

    def forward(self, documents: DocumentStates) -> LoraBatch:
        latents, read, tokens, _ = self._latents(documents)
        settings = self.settings
        made: dict[str, tuple[Tensor, Tensor]] = {}
        for number, module in enumerate(settings.target_modules):
            own = slice(number * settings.rank, (number + 1) * settings.rank)
            rows = latents[:, :, own]  # (L, B, r, W)
            a = _apply(rows, self.head_a[module]) / math.sqrt(rows.size(-1)) + self.bias_a[module][:, None]
            b = _apply(rows, self.head_b[module])
            if module in self.looks:
                a = a + self.looks[module](read[:, :, own])
            if module in self.bias_b:
                b = b + self.bias_b[module][:, None]
            if module in self.copies:
                b = b + _apply(tokens[:, :, own], self.copies[module])
            made[module] = a, self.strength * b.mT
        modules = {s.key: (made[s.module][0][place], made[s.module][1][place]) for s, place in self._placed()}
        return LoraBatch(modules, settings.alpha / settings.rank)

    def begin_step(self, step: int) -> None:
        self.strength.fill_(max(float(self.strength), min(1.0, step / RISING_STEPS)))

    def _placed(self) -> list[tuple[ModuleShape, int]]:
        """Every adapted module with the place of its layer among the adapted ones."""
        return [(shape, self.layers.index(shape.layer)) for shape in self.shapes]

    @torch.no_grad()
    def attention_map(self, documents: DocumentStates) -> Tensor:
        """(L, K, S) for the first prompt: the share of its reading that each slot gives to each document token."""
        return self._latents(documents)[-1][:, 0]

    def _latents(self, documents: DocumentStates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Final slots (L, B, K, W), layer-normalised; what they read in the first block, as the normalised input of
        the layers that `attention` names and as token embeddings (L, B, K, D); and that block's attention (L, B, K, S)."""
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
        inputs = documents.states[self.look_layers].to(dtype)  # (L, B, S, D)
        read = first @ functional.rms_norm(inputs, inputs.shape[-1:])
        return functional.layer_norm(latents, latents.shape[-1:]), read, first @ states[0], first


def _units(rank: int, units: int) -> Tensor:
    """(r, units): a unit of its own for each slot, spread evenly (shared where there are more slots than units)."""
    chosen = torch.arange(rank) * units // rank if rank <= units else torch.arange(rank) % units
    return functional.one_hot(chosen, units).float()


def _apply(x: Tensor, matrices: Tensor) -> Tensor:
    """x (L, B, X, d_in) through the matrices (L, d_in, d_out) of its layers."""
    return (x.flatten(1, 2) @ matrices).unflatten(1, x.shape[1:3])


def _checked_layers(settings: PerRankSettings, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The adapted layers and the layers whose attention each looks with; ConfigError for one that the base does not have."""
    layers = settings.layers or tuple(range(count))
    looks = settings.attention or layers
    for name, numbers in (("layers", layers), ("attention", looks)):
        if min(numbers) < 0 or max(numbers) >= count:
            raise ConfigError(f"{name}: {list(numbers)} are not all among this base's layers 0 to {count - 1}")
    if len(set(layers)) != len(layers) or len(looks) != len(layers):
        raise ConfigError("layers must differ from each other, and attention must name one layer for each of them")
    return layers, looks


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

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self._split(query), self._split(key), self._split(value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.size(-1))  # (L, B, H, K, S)
        weights = (scores + bias[:, :, None]).softmax(-1)
        return (weights @ value).transpose(-3, -2).flatten(-2), weights.mean(2)

    def _attend_slots(self, latents: Tensor) -> Tensor:
        """(L, B, K, 3 W) queries, keys and values of a layer's slots -> (L, B, K, W)."""
        query, key, value = (self._split(x).flatten(0, 1) for x in latents.chunk(3, dim=-1))  # (L B, H, K, W / H)
        read = functional.scaled_dot_product_attention(query, key, value)
        return read.transpose(1, 2).flatten(2).unflatten(0, latents.shape[:2])

    def forward(self, latents: Tensor, keys: Tensor, values: Tensor, closeness: Tensor, blocked: Tensor) -> tuple[Tensor, Tensor]:
        """latents (L, B, K, W); keys, values (L, B, S, D); closeness (B, K, S); blocked (B, 1, S). Returns the new
        latents and the cross-attention (L, B, K, S)."""

        def normal(x: Tensor) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:])

        bias = self.tiling * closeness + blocked  # (L, B, K, S)
        read, attention = self._attend(
            _apply(normal(latents), self.query), _apply(keys, self.key), _apply(values, self.value), bias
        )
        latents = latents + _apply(read, self.out)
        latents = latents + _apply(self._attend_slots(_apply(normal(latents), self.slot_qkv)), self.slot_out)
        return latents + _apply(functional.gelu(_apply(normal(latents), self.up)), self.down), attention
