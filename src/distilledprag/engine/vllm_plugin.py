"""Loaded by vLLM itself, in vLLM's environment: state adapters (the exact path), and LoRA on processors without a copy per token.

vLLM finds `register` through the entry point group `vllm.general_plugins`, once this package is installed beside it
(`pip install --no-deps distilledprag`). Imports vLLM and torch, nothing else of this package. Written for vLLM 0.32.

How a state adapter gets there: as a LoRA on the down projection of the layer L after which states are written, whose columns of B
are the states. Its A is zero but for a mark too small to change anything. The i-th mask of the prompt is the i-th numbered mask
token; a token with such a number whose row of A has the mark is embedded as the paper's one mask, and its state after layer L
becomes its column of B. Token ids tell the column, so prompts may be read in pieces and cached, as vLLM does.

    T = tokens of a step, D = hidden size, U = width of the MLP, S = slots for adapters, r = highest rank
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

ARCHITECTURE = "StatesLlamaForCausalLM"
MARK = 2.0**-100  # a bfloat16 and float32 number; what it adds to a sum of ordinary numbers is rounded away


def register() -> None:
    """Make the model known, and the products of LoRA on processors fast. Doing it again changes nothing."""
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "distilledprag.engine.vllm_plugin_model:StatesLlamaForCausalLM")
    if current_platform.is_cpu():
        _multiply_by_slot()


class States:
    """Writes the states of one step. down: the down projection after layer L, as vLLM's LoRA has wrapped it."""

    def __init__(self, folder: str, mask_id: int) -> None:
        record = json.loads((Path(folder) / "distilledprag.json").read_text(encoding="utf-8"))
        self.layer: int = record["layer"]
        self._first, self._count, self._mask = record["first_numbered"], record["masks"], mask_id
        self._at: Tensor | None = None  # places of this step's tokens that are given a state
        self._rows: Tensor | None = None  # (places, D)

    def begin(self, ids: Tensor, down: Any) -> Tensor:
        """Ids (T,) as they are to be embedded. Finds what is to be written."""
        self._at = None
        if not hasattr(down, "lora_a_stacked"):
            return ids
        number = ids - self._first
        slots = down.punica_wrapper.token_lora_indices
        at = ((number >= 0) & (number < self._count)).nonzero().squeeze(1)
        at = at[at < len(slots)]
        a, b = down.lora_a_stacked[0], down.lora_b_stacked[0]  # (S, 1, r, U), (S, 1, D, r)
        at = at[(slots[at] >= 0) & (number[at] < a.shape[2])]
        at = at[a[slots[at], 0, number[at], 0] == MARK]
        if not len(at):
            return ids
        self._at, self._rows = at, b[slots[at], 0, :, number[at]]
        return ids.index_fill(0, at, self._mask)

    def write(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """What layer L gives (T, D) and (T, D), whose sum is the state, with the states written."""
        if self._at is None or self._rows is None:
            return hidden, residual
        return hidden.index_fill(0, self._at, 0.0), residual.index_copy(0, self._at, self._rows.to(residual.dtype))


def _multiply_by_slot() -> None:
    """vLLM's own products for processors copy the whole A and B of an adapter for each token, and give tokens without an adapter
    those of the last slot. These multiply the tokens of each slot at once."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for name, function in (("bgmv_shrink", shrink), ("bgmv_expand", expand), ("bgmv_expand_slice", expand_slice)):
        setattr(lora_ops, name, function)
        setattr(punica_cpu, name, function)


def shrink(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, scaling: float = 1.0) -> None:
    """output (T, r) = scaling * inputs (T, U) A^T, with the A of each token's slot; weights (S, 1, r, U)."""
    for slot, rows in _by_slot(slots):
        a = weights[slot].flatten(0, -2)
        output[rows, : len(a)] = scaling * (inputs[rows].to(output.dtype) @ a.to(output.dtype).T)


def expand(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, add_inputs: bool = True) -> None:
    """output (T, D) (+)= inputs (T, r) B^T, with the B of each token's slot; weights (S, 1, D, r)."""
    expand_slice(inputs, weights, output, slots, 0, output.shape[1], add_inputs)


def expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    slots: Tensor,
    offset: int,
    size: int,
    add_inputs: bool = True,
) -> None:
    """`expand` into the columns from `offset` on, `size` of them."""
    for slot, rows in _by_slot(slots):
        b = weights[slot].flatten(0, -2)
        width = min(size, len(b))
        made = inputs[rows, : b.shape[1]].to(output.dtype) @ b[:width].to(output.dtype).T
        if add_inputs:
            output[rows, offset : offset + width] += made
        else:
            output[rows, offset : offset + width] = made


def _by_slot(slots: Tensor) -> list[tuple[int, Tensor]]:
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in slots.unique().tolist() if slot >= 0]
