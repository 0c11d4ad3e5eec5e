"""A tiny model with random weights of every family of base LLMs."""

from __future__ import annotations

from typing import Any

import torch
from tiny import END_TOKEN
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
}


def family_model(family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """settings: of the family's configuration, beside the sizes."""
    kind, model_kind = FAMILIES[family]
    torch.manual_seed(seed)
    config = kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=None, eos_token_id=tokenizer.convert_tokens_to_ids(END_TOKEN), pad_token_id=tokenizer.pad_token_id,
        **settings,
    )  # fmt: skip
    return model_kind(config)
