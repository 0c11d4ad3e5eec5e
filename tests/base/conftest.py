"""Tiny random causal LMs of every supported architecture, with a tiny byte-level tokenizer."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

MASK = "<|doc_mask|>"
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


@pytest.fixture
def make_tokenizer():
    """`make_tokenizer(*reserved)`: a fresh tokenizer; `reserved` are special tokens it was trained with."""

    def make(*reserved: str) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=280,
            special_tokens=["<|endoftext|>", *reserved],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(["You should answer the question about Rome."], trainer)
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")

    return make


@pytest.fixture
def make_model():
    """`make_model(rows, kind, tied, dtype, hidden)`: a tiny random causal LM whose table has `rows` rows."""

    def make(rows, kind="llama", tied=True, dtype=torch.float32, hidden=32):
        config = CONFIGS[kind](
            vocab_size=rows,
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return make
