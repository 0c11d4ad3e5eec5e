"""Tiny random models and adapters that the LoRA tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from distilledprag.lora import (
    ATTENTION_TARGETS,
    MLP_TARGETS,
    BaseIdentity,
    LoraPair,
    LoraWeights,
    module_shapes,
)

VOCABULARY = 64
ALL_TARGETS = (*MLP_TARGETS, *ATTENTION_TARGETS)
IDENTITY = BaseIdentity(id="example/base", config_hash="c" * 64, mask_row_hash="m" * 64)

_CONFIGS = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": 6}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 12}),  # heads * head_dim is not the hidden size here
}
ARCHITECTURES = tuple(_CONFIGS)


def tiny_config(architecture: str = "llama", **changes: Any) -> Any:
    kind, extra = _CONFIGS[architecture]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,  # large, so that answers differ and differences show
        "bos_token_id": 1,
        "eos_token_id": None,  # generation runs to its full length
        "pad_token_id": 0,
    }
    return kind(**{**sizes, **extra, **changes})


def tiny_model(architecture: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A frozen random float32 causal language model in evaluation mode."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, **changes))
    return model.float().eval().requires_grad_(False)


def random_adapter(
    config: Any,
    targets: tuple[str, ...] = MLP_TARGETS,
    rank: int = 3,
    alpha: float = 6.0,
    seed: int = 0,
    base: BaseIdentity = IDENTITY,
    size: float = 0.2,
) -> LoraWeights:
    """An adapter whose A and B are both random, so that it changes the logits."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        key: LoraPair(
            torch.randn(rank, d_in, generator=generator) * size,
            torch.randn(d_out, rank, generator=generator) * size,
        )
        for key, (d_in, d_out) in module_shapes(config, targets).items()
    }
    return LoraWeights(modules, alpha, base, "example-generator")


def random_tokens(rows: int = 1, length: int = 9, seed: int = 0) -> Tensor:
    """(rows, length) token ids without the special ones."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    """(rows, length, vocabulary), without gradients."""
    with torch.no_grad():
        return model(tokens).logits


def state_bytes(model: Any) -> dict[str, bytes]:
    """Every parameter and buffer, bit by bit."""
    return {
        name: value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if value.numel()
    }


def same_tensors(first: LoraWeights, second: LoraWeights) -> bool:
    """Same modules, same bits, same dtypes, same record."""
    return (
        list(first.modules) == list(second.modules)
        and (first.alpha, first.base, first.generator) == (second.alpha, second.base, second.generator)
        and all(
            getattr(first.modules[key], name).dtype == getattr(second.modules[key], name).dtype
            and torch.equal(getattr(first.modules[key], name), getattr(second.modules[key], name))
            for key in first.modules
            for name in ("a", "b")
        )
    )
