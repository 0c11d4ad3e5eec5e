"""Bases of a well-known model's shape with random weights: what takes long is the same, what is answered is not."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from distilledprag.base.llm import BaseLLM
from distilledprag.base.masks import add_mask_tokens
from distilledprag.lora.identity import BaseIdentity
from distilledprag.pipeline import DistilledPRAG

SHAPES = {  # hidden size, MLP width, layers, heads, key-value heads
    "tiny": (64, 128, 6, 4, 2),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8),
}


def random_base(shape: str, tokenizer: str, device: str) -> DistilledPRAG:
    """In bfloat16; states are written at a third of the depth. tokenizer: folder of an LLM that is not prepared.

    The vocabulary is that tokenizer's (49 k tokens with SmolLM2's, where Llama 3.2 has 128 k), with tied embeddings.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    width, mlp, layers, heads, key_value_heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=16_384,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    mask = add_mask_tokens(model, words, 512).mask_id
    base = BaseLLM(model, words, mask, BaseIdentity.of(model, mask, shape), shape)
    return DistilledPRAG(base, layer=layers // 3)
