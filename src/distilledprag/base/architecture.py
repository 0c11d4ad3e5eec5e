"""The one place that knows where Llama, Mistral, Qwen, Gemma and Phi-3 models of `transformers` keep their parts.

    B = sequences, T = tokens, D = hidden size, U = width of the MLP, L = a layer's number (from 0)

Adding a family is adding its name to `FAMILIES`, after a look at whether its decoder layers end in
`residual + mlp(...)` (see `adds_mlp_output`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distilledprag.errors import CheckpointError

FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
_NORMS_AFTER_MLP = ("gemma2", "gemma3_text")


def backbone(model: nn.Module) -> Any:
    """The decoder below the language-model head: the module that has `layers`. Raises CheckpointError without one."""
    for candidate in (model, getattr(model, "model", None)):
        if isinstance(getattr(candidate, "layers", None), nn.ModuleList):
            return candidate
    raise CheckpointError(f"{type(model).__name__} has no decoder layers; a base must be one of: {', '.join(FAMILIES)}")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    return backbone(model).layers


def down_projection(model: nn.Module, layer: int) -> nn.Module:
    """The MLP's last linear module (U -> D) of a layer: what state adapters in PEFT form change."""
    return decoder_layers(model)[layer].mlp.down_proj  # type: ignore[union-attr, return-value]


def adds_mlp_output(model: nn.Module) -> bool:
    """Whether a layer's output is `residual + down_proj(...)`, so that a LoRA on down_proj can write any state."""
    return model.config.model_type not in _NORMS_AFTER_MLP  # type: ignore[union-attr, operator]


def adapted_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path below the backbone, parent module, name) of every linear module of every layer, first layer first."""
    for number, layer in enumerate(decoder_layers(model)):
        for path, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, name = path.rpartition(".")
                yield f"layers.{number}.{path}", layer.get_submodule(parent), name


@contextlib.contextmanager
def truncated(model: nn.Module, layers: int) -> Iterator[None]:
    """While the block runs, the model has its first `layers` layers only."""
    decoder = backbone(model)
    whole = decoder.layers
    decoder.layers = whole[:layers]
    try:
        yield
    finally:
        decoder.layers = whole


@contextlib.contextmanager
def changed_layer_output(model: nn.Module, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While the block runs, `change` replaces the hidden states (B, T, D) that a layer hands on."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = decoder_layers(model)[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def hidden_after(model: nn.Module, layers: list[int], **inputs: Any) -> dict[int, Tensor]:
    """The residual states (B, T, D) after each of `layers`; layers above the highest are not run. Keeps gradients."""
    found: dict[int, Tensor] = {}
    with truncated(model, max(layers) + 1), contextlib.ExitStack() as hooks:
        for number in layers:

            def keep(hidden: Tensor, number: int = number) -> Tensor:
                found[number] = hidden
                return hidden

            hooks.enter_context(changed_layer_output(model, number, keep))
        backbone(model)(use_cache=False, **inputs)
    return found


def hidden_states(model: nn.Module, **inputs: Any) -> Tensor:
    """The last hidden states (B, T, D), after the final norm."""
    return backbone(model)(use_cache=False, **inputs).last_hidden_state


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Logits in float32, (..., V), with the soft cap that some models (Gemma 2) put on them."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits
