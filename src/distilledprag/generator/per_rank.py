"""Our generator: one latent slot for every (layer, module, rank), read from the frozen base LLM's own states.

    L = adapted layers   K = slots of a layer (modules x rank)   W = width   D = base hidden size   N = L + 1 state layers
    B = prompts          S = document tokens                     H = attention heads

      states (N, B, S, D) --layer mix--> keys, values (L, B, S, D)
      slots (L, K, W) --[cross-attention with tiled positions, slot attention, feed-forward] x blocks--> (L, B, K, W)
      slot and what it reads --maps and heads of its layer and module--> one row of A (d_in) or one column of B (d_out)

The base LLM has already understood the passages, so no second encoder has to be aligned with it (Doc-to-LoRA). Slot i of a
module starts out reading document token i; where there are more tokens than slots, each reads its share of them, in order.

The base also knows already where it would look for an answer and what it would take from there: that is what its attention
says. So the LoRA starts out as the base's own attention over the passages, rewritten as a memory in the MLP:
  - rows of A of gate and up are attention keys (attention_maps.py), less a threshold: A x is large where this base in state x
    would attend to that token;
  - each slot has one intermediate unit, whose activation, a product of gate and up, grows with the square of that score, which
    stands in for the softmax. Where the base has spare units (spare_units.py), slots have those to themselves, and B of gate
    and up and A of down only name them; otherwise slots share the base's units, and those factors are generated too;
  - columns of B of down are what attention would write there, or the token's embedding.
All of this is trained further. `strength` scales every B: it is 0 in an untrained generator, which changes nothing, and
rises to 1 over the first steps of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from distilledprag.base_model import BaseModel
from distilledprag.errors import ConfigError
from distilledprag.generator.attention_maps import key_map, value_map
from distilledprag.generator.base_states import base_document_states
from distilledprag.generator.interface import (
    DocumentStates,
    GeneratorSettings,
    ModuleShape,
    ParameterGenerator,
    module_shapes,
)
from distilledprag.generator.slot_order import mixed_slots
from distilledprag.generator.slots import SlotBlock, apply, matrices
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.weights import LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.spare_units import spare_units


class Memory(Settings):
    """An adapted layer (numbers from 0) and what its LoRA starts as: a memory with the keys of layer `attention`'s attention
    (None: its own) that writes what this attention would write, or token embeddings. `threshold`: scores that it answers to,
    in standard deviations above the mean score; `gain`: what it writes, relative to what that attention writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    layer: int = Field(ge=0)
    attention: int | None = Field(None, ge=0)
    writes: Literal["attention", "token"] = "attention"
    threshold: float = 1.75
    gain: float = 1.0


class PerRankSettings(GeneratorSettings):
    """`memories`: the adapted layers, None for all; `width` W, `heads` H and `blocks` size the slots' network; `tiling` is how
    strongly slots start out bound to their part of the passages (0: not at all)."""

    architecture: Literal["per_rank"] = "per_rank"
    rank: int = Field(16, gt=0)
    alpha: float = Field(16.0, gt=0)
    memories: tuple[Memory, ...] | None = Field(None, min_length=1)
    width: int = Field(512, gt=0)
    heads: int = Field(8, gt=0)
    blocks: int = Field(1, ge=0)
    tiling: float = Field(16.0, ge=0)


UNIT_GAIN = 4.0  # what a score adds to its unit: large, so that scores below the threshold leave next to nothing
VALUE_SCALE = 0.02  # of what is written, before calibration
RISING_STEPS = 50  # of training, until the strength is 1


class PerRankGenerator(ParameterGenerator):
    """See the module's docstring. Raises ConfigError when the base's layers differ in size."""

    reads_base = True
    look_layers: Tensor  # (L,) the layers whose attention the memories start from
    value_scale: Tensor  # (L,) factor of what a layer writes
    strength: Tensor  # () factor of all B, 0 to 1
    units: Tensor  # (r, d_ff) the unit of each slot, in a base with spare units

    def __init__(self, settings: PerRankSettings, base: BaseModel) -> None:
        super().__init__()
        self.settings: PerRankSettings = settings
        self.base_identity = base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        modules, width, rank = settings.target_modules, settings.width, settings.rank
        memories = _checked_memories(settings, base.model.config.num_hidden_layers)
        self.layers = [memory.layer for memory in memories]
        self.shapes = [s for s in module_shapes(base.model, modules) if s.layer in self.layers]
        if width % settings.heads:
            raise ConfigError(f"width {width} cannot be split into {settings.heads} heads; choose a multiple")
        sizes = {module: {(s.d_in, s.d_out) for s in self.shapes if s.module == module} for module in modules}
        if any(len(options) != 1 for options in sizes.values()):
            raise ConfigError("the per_rank generator needs layers of one size; this base's layers differ")
        hidden, layers = base.model.config.hidden_size, len(memories)
        self.slots = matrices(layers, len(modules) * rank, width)
        self.key_mix, self.value_mix = (nn.Parameter(self._initial_mix(base)) for _ in range(2))
        self.blocks = nn.ModuleList(
            SlotBlock(layers, len(modules), width, hidden, settings.heads) for _ in range(settings.blocks)
        )
        looks = [memory.layer if memory.attention is None else memory.attention for memory in memories]
        self.register_buffer("look_layers", torch.tensor(looks), persistent=False)
        self.register_buffer("strength", torch.tensor(0.0))
        self.register_buffer("value_scale", torch.full((layers,), VALUE_SCALE))
        self.own_units = _own_units(base, rank) if set(modules) >= {"gate_proj", "up_proj", "down_proj"} else None
        if self.own_units is not None:
            self.register_buffer("units", self.own_units, persistent=False)
        self.rows, self.row_bias = nn.ParameterDict(), nn.ParameterDict()  # of A: from what is read, and for all slots
        self.columns, self.column_bias = nn.ParameterDict(), nn.ParameterDict()  # the same of B
        self.head_a, self.head_b = nn.ParameterDict(), nn.ParameterDict()  # from the slots
        for module, ((d_in, d_out),) in sizes.items():
            reads, writes, shared = module in ("gate_proj", "up_proj"), module == "down_proj", self.own_units is None
            if shared or not writes:
                self.head_a[module] = matrices(layers, width, d_in, gain=0.0)
            if reads:
                self._start_keys(module, base)
            elif writes:
                self._start_values(module, base, memories)
                if shared:
                    self.row_bias[module] = nn.Parameter(_spread_units(rank, d_in).repeat(layers, 1, 1))
            else:
                self.row_bias[module] = nn.Parameter(torch.randn(layers, rank, d_in) / math.sqrt(d_in))
            if shared or not reads:
                self.head_b[module] = matrices(layers, width, d_out, gain=0.0)
            if reads and shared:
                self.column_bias[module] = nn.Parameter(_spread_units(rank, d_out).repeat(layers, 1, 1))

    def _start_keys(self, module: str, base: BaseModel) -> None:
        found = [key_map(base.model, look, layer) for look, layer in zip(self.look_layers.tolist(), self.layers, strict=True)]
        matrix, bias = (torch.stack(parts) for parts in zip(*found, strict=True))
        self.rows[module] = nn.Parameter(torch.cat([matrix * math.sqrt(matrix.size(-1)), torch.zeros_like(matrix)], dim=1))
        self.row_bias[module] = nn.Parameter(bias[:, None])

    def _start_values(self, module: str, base: BaseModel, memories: Sequence[Memory]) -> None:
        maps, offsets = [], []
        for memory, look in zip(memories, self.look_layers.tolist(), strict=True):
            matrix, offset = value_map(base.model, look)
            if memory.writes == "token":
                maps.append(torch.cat([torch.zeros_like(matrix), torch.eye(matrix.size(-1), device=matrix.device)]))
                offsets.append(torch.zeros_like(offset)[None])
            else:
                size = torch.linalg.matrix_norm(matrix, 2)
                maps.append(torch.cat([matrix / size, torch.zeros_like(matrix)]))
                offsets.append(offset[None] / size / math.sqrt(matrix.size(-1)))
        self.columns[module] = nn.Parameter(torch.stack(maps))
        self.column_bias[module] = nn.Parameter(torch.stack(offsets))

    def _initial_mix(self, base: BaseModel) -> Tensor:
        """(L, N) logits: layer l reads mostly the states that its block of the base has written."""
        mix = torch.zeros(len(self.layers), base.model.config.num_hidden_layers + 1)
        mix[torch.arange(len(self.layers)), torch.tensor(self.layers) + 1] = 2.0
        return mix

    def matrix_parameters(self) -> list[nn.Parameter]:
        """The stacked linear maps, for optimizers that treat matrices in their own way."""
        return [*self.head_a.values(), *self.head_b.values(), *self.rows.values(), *self.columns.values()]

    def encode(self, base: BaseModel, passages: Sequence[Sequence[str]]) -> DocumentStates:
        return base_document_states(base, self.prompts, passages)

    def forward(self, documents: DocumentStates) -> LoraBatch:
        latents, tokens, active = self._latents(documents)
        made: dict[str, tuple[Tensor, Tensor]] = {}
        for module in self.settings.target_modules:
            made[module] = self._factors(module, latents, tokens, active)
        modules = {s.key: (made[s.module][0][place], made[s.module][1][place]) for s, place in self._placed()}
        return LoraBatch(modules, self.settings.alpha / self.settings.rank)

    def _factors(self, module: str, latents: Tensor, tokens: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """A (L, B, r, d_in) and B (L, B, d_out, r) of one module in all layers."""
        slots = latents[:, :, self._own(module)]

        def made(head: nn.ParameterDict, maps: nn.ParameterDict, bias: nn.ParameterDict) -> Tensor:
            parts = [apply(slots, head[module]) / math.sqrt(slots.size(-1))] if module in head else []
            parts += [apply(tokens, maps[module])] if module in maps else []
            parts += [bias[module][:, None]] if module in bias else []
            return sum(parts[1:], parts[0]) if parts else self.units.expand(*slots.shape[:2], -1, -1)

        a = made(self.head_a, self.rows, self.row_bias)
        b = made(self.head_b, self.columns, self.column_bias)
        if module in self.rows:
            a = UNIT_GAIN * a
            if self.own_units is not None:  # a slot without a token is idle in all modules, so that exports can leave it out
                a = a * active[:, :, None]
        if module in self.columns:
            b = b * self.value_scale[:, None, None, None] * active[:, :, None]
        if module in self.head_b:  # not where B only names units: down's factor is enough there
            b = self.strength * b
        return a, b.mT

    def _own(self, module: str) -> slice:
        """The slots of one module, among the K of a layer."""
        number, rank = self.settings.target_modules.index(module), self.settings.rank  # type: ignore[arg-type]
        return slice(number * rank, (number + 1) * rank)

    def exported(self, weights: LoraWeights) -> LoraWeights:
        return weights if self.own_units is None else mixed_slots(weights)

    def begin_step(self, step: int) -> None:
        self.strength.fill_(max(float(self.strength), min(1.0, step / RISING_STEPS)))

    def _placed(self) -> list[tuple[ModuleShape, int]]:
        """Every adapted module with the place of its layer among the adapted ones."""
        return [(shape, self.layers.index(shape.layer)) for shape in self.shapes]

    @torch.no_grad()
    def calibrate_rows(self, layer: int, documents: DocumentStates, inputs: Tensor) -> None:
        """Scale the rows of one layer so that scores have standard deviation 1, and set its threshold.

        inputs: (B, Q, D), what gate and up see at Q positions of each prompt that may ask for something.
        """
        place = self.layers.index(layer)
        threshold = self._memories()[place].threshold
        _, tokens, active = self._latents(documents)
        flat = inputs.flatten(0, 1).double()
        gram = flat.T @ flat
        gram.diagonal().add_(gram.diagonal().mean() * 1e-2)
        one = torch.linalg.solve(gram, flat.sum(0)).float()  # its product with an input is nearest to 1
        for module in ("gate_proj", "up_proj"):
            rows = apply(tokens, self.rows[module])[place] + self.row_bias[module][place]  # (B, r, D)
            scores = torch.einsum("bqd,brd->bqr", inputs, rows).transpose(1, 2)[active]
            mean, deviation = scores.mean(), scores.std().clamp(min=1e-6)
            self.rows[module][place] /= deviation
            self.row_bias[module][place] /= deviation
            self.row_bias[module][place] -= (mean / deviation + threshold) * one

    @torch.no_grad()
    def calibrate_values(self, layer: int, written: Tensor, wanted: Tensor) -> None:
        """Scale what one layer writes: now of length `written`, where attention would write vectors of length `wanted`."""
        place = self.layers.index(layer)
        self.value_scale[place] *= self._memories()[place].gain * wanted / written

    def _memories(self) -> tuple[Memory, ...]:
        return self.settings.memories or tuple(Memory(layer=layer) for layer in self.layers)

    @torch.no_grad()
    def attention_map(self, documents: DocumentStates) -> Tensor:
        """(L, K, S) for the first prompt: the share of its reading that each slot gives to each document token (mean over
        heads; of the maps' reading, without a block)."""
        first = DocumentStates(documents.states[:, :1], documents.mask[:1])
        reading, bias, _ = self._reading(first.mask, self.slots.dtype)
        latents, keys, _ = self._start(first)
        if not len(self.blocks):
            return reading.repeat(len(self.layers), len(self.settings.target_modules), 1)
        return self.blocks[0].attention(latents, keys, bias)[:, 0]  # type: ignore[operator]

    def _reading(self, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Slot by slot the weights (B, r, S) with which it reads the document tokens of its place; the same as logits for all
        slots of a layer, (B, K, S); and which slots have a token to read, (B, r)."""
        rank = self.settings.rank
        count = mask.sum(1, keepdim=True)  # (B, 1)
        share = (count / rank).clamp(min=1.0)
        numbers = torch.arange(rank, device=mask.device)
        centres = (numbers + 0.5) * share - 0.5  # (B, r)
        distance = ((mask.cumsum(1) - 1)[:, None, :] - centres[:, :, None]) / share[:, :, None]  # (B, r, S)
        logits = (-0.5 * self.settings.tiling * distance.square()).to(dtype).masked_fill(~mask[:, None, :], -1e4)
        return logits.softmax(-1), logits.repeat(1, len(self.settings.target_modules), 1), numbers < count

    def _start(self, documents: DocumentStates) -> tuple[Tensor, Tensor, Tensor]:
        """Slots (L, B, K, W) before the first block, and the keys and values (L, B, S, D) that blocks read."""
        states = documents.states.to(self.slots.dtype)
        states = functional.layer_norm(states, states.shape[-1:])  # (N, B, S, D)
        keys = torch.einsum("ln,nbsd->lbsd", self.key_mix.softmax(-1), states)
        values = torch.einsum("ln,nbsd->lbsd", self.value_mix.softmax(-1), states)
        return self.slots[:, None].expand(-1, states.size(1), -1, -1), keys, values

    def _latents(self, documents: DocumentStates) -> tuple[Tensor, Tensor, Tensor]:
        """Final slots (L, B, K, W), layer-normalised; what slot i of a module reads at its place: the normalised state that the
        layer's attention takes and the token's embedding, (L, B, r, 2 D) / sqrt(D); and which slots have a token (B, r)."""
        given = documents.states.to(self.slots.dtype)
        reading, bias, active = self._reading(documents.mask, given.dtype)
        latents, keys, values = self._start(documents)
        for block in self.blocks:
            latents = block(latents, keys, values, bias)
        inputs = torch.cat([given[self.look_layers], given[:1].expand(len(self.layers), -1, -1, -1)], dim=-1)
        inputs = functional.rms_norm(inputs.unflatten(-1, (2, -1)), given.shape[-1:]).flatten(-2) / math.sqrt(given.size(-1))
        return functional.layer_norm(latents, latents.shape[-1:]), reading @ inputs, active


def _own_units(base: BaseModel, rank: int) -> Tensor | None:
    """(r, d_ff): a spare unit of its own for each slot, one-hot; None where the base has too few."""
    spare = spare_units(base.model)
    if len(spare) < rank:
        return None
    return functional.one_hot(spare[:rank], base.model.config.intermediate_size).float()


def _spread_units(rank: int, units: int) -> Tensor:
    """(r, units): a unit for each slot, spread evenly (shared where there are more slots than units)."""
    chosen = torch.arange(rank) * units // rank if rank <= units else torch.arange(rank) % units
    return functional.one_hot(chosen, units).float()


def _checked_memories(settings: PerRankSettings, count: int) -> tuple[Memory, ...]:
    """The adapted layers; ConfigError for one that the base does not have, or that is named twice."""
    memories = settings.memories or tuple(Memory(layer=layer) for layer in range(count))
    layers = [memory.layer for memory in memories]
    named = {*layers, *(memory.attention for memory in memories if memory.attention is not None)}
    if max(named) >= count:
        raise ConfigError(f"memories: layer {max(named)} is not among this base's layers 0 to {count - 1}")
    if len(set(layers)) != len(layers):
        raise ConfigError(f"memories: layers {layers} must differ from each other")
    return memories
