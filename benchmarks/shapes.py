"""Bases of a well-known model's shape with random weights: what takes long is the same, what is answered is not."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from distilledprag.base.llm import BaseLLM
from distilledprag.base.masks import add_mask_tokens
from distilledprag.lora.identity import BaseIdentity
from distilledprag.pipeline import DistilledPRAG

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-3.2-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip


def random_base(shape: str, tokenizer: str, device: str) -> DistilledPRAG:
    """In bfloat16; states are written at a third of the depth. tokenizer: folder of an LLM that is not prepared.

    The vocabulary is that tokenizer's (49 k tokens with SmolLM2's, where Llama 3.2 has 128 k), with tied embeddings.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        vocab_size=len(words),
        max_position_embeddings=16_384,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        **SHAPES[shape],
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    mask = add_mask_tokens(model, words, 512).mask_id
    return DistilledPRAG(
        BaseLLM(model, words, mask, BaseIdentity.of(model, mask, shape), shape), layer=config.num_hidden_layers // 3
    )
