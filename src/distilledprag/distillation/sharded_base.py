"""A frozen base that one GPU cannot hold: its decoder layers are shared out over the training processes, by torch's FSDP2.

Of each layer's tensors every process keeps its slice. While a layer runs, forward or backward, its slices are gathered, and the
next layer's with them, so that they travel while this one computes; then all but the own ones are let go. A GPU so holds 1 / W of
the layers for W processes, and two or three whole ones at a time. Embeddings, final norm and head stay whole in every process:
losses, masks and generators read them outside of a run.

A process that runs the base waits for the slices of all others, so all of them must run it equally often and as far.

(Accelerate and transformers shard a whole model by the same function, embeddings and head too, and what is trained with it.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from distilledprag.base.architecture import decoder_layers, truncated
from distilledprag.base.llm import BaseLLM, chosen_device, load_base
from distilledprag.distillation.processes import training_processes

Built = TypeVar("Built", bound=nn.Module)


def load_for_training(
    base: str | Path, build: Callable[[BaseLLM], Built], *, dtype: torch.dtype, seed: int, shard: bool, quiet: bool = False
) -> tuple[BaseLLM, Built]:
    """A base, and what is to be trained on it, on the device of this process.

    build: makes what is trained, from the whole base; `seed` is set before. shard: share the base's layers out; without effect
    for a process that trains alone. The processes of a machine then load one after the other, so that the machine's memory (not
    a GPU's) has room for the whole base once. Errors as in `load_base`, and those of `build`.
    """
    everyone, device = training_processes(), torch.device(chosen_device())
    if not shard or everyone.count == 1:
        loaded = load_base(base, device=device, dtype=dtype)
        torch.manual_seed(seed)
        return loaded, build(loaded).to(loaded.device).train()
    mesh = init_device_mesh(device.type, (everyone.count,))
    with everyone.in_turns():
        loaded = load_base(base, dtype=dtype)
        torch.manual_seed(seed)
        built = build(loaded)
        _shard(loaded.model, device, mesh)
    _connect(loaded)
    if everyone.is_first and not quiet:
        held, all_of_them = held_in_layers(loaded.model)
        print(f"{everyone.count} processes share the base's layers; this one holds {held:,} of their {all_of_them:,} parameters")
    return loaded, built.to(loaded.device).train()


def held_in_layers(model: nn.Module) -> tuple[int, int]:
    """Of the decoder layers' parameters: how many numbers this process holds between two runs, and how many there are."""
    parameters = list(decoder_layers(model).parameters())
    held = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in parameters)
    return held, sum(one.numel() for one in parameters)


def _shard(model: nn.Module, device: torch.device, mesh: Any) -> None:
    """Move a model from the CPU to the device: of its layers only the slices."""
    with truncated(model, 0):
        model.to(device)
        whole = set(model.parameters())
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, ignored_params=whole)  # holds nothing itself: it joins the layers


@torch.no_grad()
def _connect(base: BaseLLM) -> None:
    """Let the layers know of each other, by a run of the whole model over one token; later runs begin at its decoder."""
    layers = cast(list[FSDPModule], list(decoder_layers(base.model)))
    for layer, following in itertools.pairwise(layers):
        layer.set_modules_to_forward_prefetch([following])
    base.model(input_ids=torch.tensor([[base.mask_token_id]], device=base.device), use_cache=False)
