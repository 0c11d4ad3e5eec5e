"""The modules a LoRA may sit on: their names and, for a base model's configuration, their sizes.

Module keys are paths below the decoder: "layers.{i}.mlp.gate_proj", "layers.{i}.self_attn.q_proj", ...
This holds for the Llama, Mistral, Qwen2, Qwen2.5 and Qwen3 architectures of `transformers`.
This module knows nothing about tensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from distilledprag.errors import ConfigError
from distilledprag.lora.rejection import AdapterError, Rejection

MLP_TARGETS: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
ATTENTION_TARGETS: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

_BLOCKS = {**dict.fromkeys(MLP_TARGETS, "mlp"), **dict.fromkeys(ATTENTION_TARGETS, "self_attn")}
_ORDER = (*ATTENTION_TARGETS, *MLP_TARGETS)
_KEY = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(?:mlp\.(gate|up|down)_proj|self_attn\.[qkvo]_proj)")


def module_key(layer: int, target: str) -> str:
    """(3, "gate_proj") -> "layers.3.mlp.gate_proj". `ConfigError` for a target not in the two tuples."""
    if target not in _BLOCKS:
        raise ConfigError(f"Unknown LoRA target {target!r}. Choose from: {', '.join(_ORDER)}.")
    return f"layers.{layer}.{_BLOCKS[target]}.{target}"


def is_module_key(key: str) -> bool:
    """Whether a LoRA may sit on `key` in some model (see `module_shapes` for a given one)."""
    return _KEY.fullmatch(key) is not None


def require_module_key(key: str) -> None:
    """Raise `AdapterError` (KEYS) unless `is_module_key(key)`."""
    if not is_module_key(key):
        raise AdapterError(
            Rejection.KEYS,
            f"{key[:120]!r} is not a module a LoRA may sit on; expected names like 'layers.0.mlp.gate_proj'.",
        )


def split_module_key(key: str) -> tuple[int, str]:
    """ "layers.3.mlp.gate_proj" -> (3, "gate_proj"). The key must satisfy `is_module_key`."""
    assert is_module_key(key), key
    _, layer, _, target = key.split(".")
    return int(layer), target


def reading_order(key: str) -> tuple[int, int]:
    """Sort key: by layer, then in the order in which a layer computes its modules."""
    layer, target = split_module_key(key)
    return layer, _ORDER.index(target)


def module_shapes(config: Any, targets: Sequence[str] = MLP_TARGETS) -> dict[str, tuple[int, int]]:
    """The sizes of every targeted module of a base model.

    config: the base model's `transformers` configuration.
    targets: names out of `MLP_TARGETS` and `ATTENTION_TARGETS`.
    Returns module key -> (d_in, d_out), in reading order.
    Raises `ConfigError` for an unknown or missing target.
    """
    if not targets:
        raise ConfigError(f"No LoRA targets given. Choose from: {', '.join(_ORDER)}.")
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
