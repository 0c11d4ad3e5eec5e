"""The one place that knows where the decoder-only models of `transformers` keep their parts.

    B = sequences, T = tokens, D = hidden size, U = width of the MLP, V = rows of the embedding table,
    L = a layer's number (from 0), M = number of layers

Adding a family of models:

1. Add its `config.model_type` to `FAMILIES`, and to `_NORM_AFTER_MLP` when its decoder layers do not end in
   `hidden = residual + mlp(...)` (look at the layer's `forward` in `transformers`).
2. Where its modules have other names than Llama's, change the functions here, nothing else: every other file asks this one.
   Layers are found by `backbone`, projections by `down_projection` and `module_key`.
3. Add a tiny model with random weights to `tests/base/families.py`. The tests beside it say whether written states, PEFT
   adapters and plain RAG agree on it.

It imports nothing of the package except the errors, so `lora/` may use it.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distilledprag.errors import ConfigError, IncompatibleBaseError

FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
_NORM_AFTER_MLP = ("gemma2", "gemma3_text")

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION_TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_TARGETS: tuple[Target, ...] = ("gate_proj", "up_proj", "down_proj")
_TARGETS: tuple[str, ...] = (*ATTENTION_TARGETS, *MLP_TARGETS)  # in the order in which a layer computes them
_BLOCKS: dict[str, str] = {**dict.fromkeys(ATTENTION_TARGETS, "self_attn"), **dict.fromkeys(MLP_TARGETS, "mlp")}
_KEY = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(?:mlp\.(gate|up|down)_proj|self_attn\.[qkvo]_proj)")

BACKBONE_PATH = "model"  # of the backbone inside a causal language model


# --- layers and modules of a model


def backbone(model: nn.Module) -> Any:
    """The decoder below the language-model head: the module that has `layers`. Raises IncompatibleBaseError without one."""
    for candidate in (model, getattr(model, BACKBONE_PATH, None)):
        if isinstance(getattr(candidate, "layers", None), nn.ModuleList):
            return candidate
    raise IncompatibleBaseError(
        f"{type(model).__name__} has no decoder layers. A base must be a causal language model of `transformers` of one of "
        f"these types: {', '.join(FAMILIES)}; pass the model itself, not a wrapper around it."
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The M decoder layers. Errors as in `backbone`."""
    return cast(nn.ModuleList, backbone(model).layers)


def mlp(model: nn.Module, layer: int) -> nn.Module:
    """The MLP of a layer, D -> D."""
    return decoder_layers(model)[layer].get_submodule("mlp")


def down_projection(model: nn.Module, layer: int) -> nn.Module:
    """The MLP's last linear module (U -> D) of a layer: what state adapters in PEFT form change."""
    return cast(nn.Module, backbone(model).get_submodule(module_key(layer, "down_proj")))


def adds_mlp_output(model: nn.Module) -> bool:
    """Whether a layer's output is `residual + down_proj(...)`, so that a LoRA on down_proj can write any state."""
    return _config(model).model_type not in _NORM_AFTER_MLP


def adapted_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path below the backbone, parent module, name) of every linear module of every layer, first layer first."""
    for number, layer in enumerate(decoder_layers(model)):
        for path, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, name = path.rpartition(".")
                yield f"layers.{number}.{path}", layer.get_submodule(parent), name


def steady_length(model: nn.Module) -> int:
    """How long a sequence may be, in tokens, without its length changing how the places in it are told apart: some models rotate
    keys by other angles in sequences that are longer than those they were first trained on."""
    config = _config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # Gemma 3: one for each kind of layer
    lengths = [part["original_max_position_embeddings"] for part in parts if part.get("original_max_position_embeddings")]
    return int(min([*lengths, config.max_position_embeddings]))


# --- names of the modules that a LoRA may change, as PEFT writes them below the backbone


def module_key(layer: int, target: str) -> str:
    """A target's path below the backbone, e.g. of (3, "gate_proj"). Raises ConfigError for an unknown target."""
    if target not in _BLOCKS:
        raise ConfigError(f"Unknown LoRA target {target!r}. Choose from: {', '.join(_TARGETS)}.")
    return f"layers.{layer}.{_BLOCKS[target]}.{target}"


def is_module_key(key: str) -> bool:
    """Whether `module_key` can have written `key`, for some model (see `module_shapes` for a given one)."""
    return _KEY.fullmatch(key) is not None


def split_module_key(key: str) -> tuple[int, str]:
    """The layer and the target of a key, which must satisfy `is_module_key`."""
    assert is_module_key(key), key
    _, layer, _, target = key.split(".")
    return int(layer), target


def reading_order(key: str) -> tuple[int, int]:
    """Sort key for module keys: by layer, then in the order in which a layer computes its modules."""
    layer, target = split_module_key(key)
    return layer, _TARGETS.index(target)


def module_shapes(config: Any, targets: Sequence[str] = MLP_TARGETS) -> dict[str, tuple[int, int]]:
    """Module key -> (d_in, d_out) of every targeted module of a base, in reading order.

    config: the base's `transformers` configuration. Raises ConfigError for an unknown target, and for none.
    """
    if not targets:
        raise ConfigError(f"No LoRA targets given. Choose from: {', '.join(_TARGETS)}.")
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or hidden // heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    queries, keys = heads * head_width, key_value_heads * head_width
    sizes = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, config.intermediate_size),
        "up_proj": (hidden, config.intermediate_size),
        "down_proj": (config.intermediate_size, hidden),
    }
    named = {
        module_key(layer, target): sizes[target] for layer in range(config.num_hidden_layers) for target in dict.fromkeys(targets)
    }
    return {key: named[key] for key in sorted(named, key=reading_order)}


# --- embeddings and head


def embedding_table(model: nn.Module) -> Tensor:
    """The input embedding table (V, D)."""
    return cast(nn.Embedding, cast(Any, model).get_input_embeddings()).weight


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    """What the first layer is given for token ids (...): (..., D)."""
    return cast(Tensor, cast(Any, model).get_input_embeddings()(ids))


def embedded(model: nn.Module, rows: Tensor) -> Tensor:
    """Rows of the table (..., D) as the first layer is given them: Gemma's models scale them."""
    scale = getattr(cast(Any, model).get_input_embeddings(), "embed_scale", 1.0)
    return rows * float(scale)


def untied_head(model: nn.Module) -> Tensor | None:
    """The output head's table (V, D); None where it is the embedding table itself."""
    head = cast(Any, model).get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.weight.data_ptr() == embedding_table(model).data_ptr():
        return None
    return head.weight


def logits_of(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits in float32 (..., V) of hidden states (..., D) after the final norm, with the soft cap that Gemma 2 puts on them."""
    logits = cast(Tensor, cast(Any, model).get_output_embeddings()(hidden)).float()
    cap = getattr(_config(model), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


# --- runs


def hidden_states(model: nn.Module, **inputs: Any) -> Tensor:
    """The last hidden states (B, T, D), after the final norm."""
    return cast(Tensor, backbone(model)(use_cache=False, **inputs).last_hidden_state)


def all_hidden_states(model: nn.Module, **inputs: Any) -> tuple[Tensor, ...]:
    """Embeddings and the output of every layer: M + 1 tensors (B, T, D), the last one after the final norm."""
    return cast(tuple[Tensor, ...], backbone(model)(use_cache=False, output_hidden_states=True, **inputs).hidden_states)


def hidden_after(model: nn.Module, layers: Sequence[int], **inputs: Any) -> dict[int, Tensor]:
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


def keep_layers(model: nn.Module, layers: int) -> None:
    """Reduce a model to its embeddings and first `layers` layers for good, in its configuration too."""
    decoder, config = backbone(model), _config(model)
    decoder.layers = decoder.layers[:layers]
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def copied_layers(model: Any, layers: int) -> Any:
    """A copy of a model that has its first `layers` layers only; embeddings and head are the model's own."""
    shared = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    with truncated(model, layers):
        made = copy.deepcopy(model, {id(module): module for module in shared})
    keep_layers(made, layers)
    return made


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


def _config(model: nn.Module) -> Any:
    return model.config
