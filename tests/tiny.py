"""Tiny models with random weights and a tokenizer trained on the text below, made the way real ones are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distilledprag.base.llm import BaseLLM, save_base
from distilledprag.base.masks import install_mask
from distilledprag.base.prepare import prepare_base
from distilledprag.generators import build_generator

START_TOKEN, END_TOKEN, PAD_TOKEN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.1,  # with the usual 0.02 so small a model writes every token with nearly the same probability
}
PAPER = {"architecture": "paper", "encoder": "base", "rank": 2, "alpha": 2, "projector_hidden": 24, "heads": 4}

TEXT = """
Answer the question with a short answer, using only the passages that are given here. You are a helpful assistant.
Passage 1: The old harbour of Oakport was built in 1874, when the first ships brought grain and timber from the north. Anna
Tovberg lives in Oakport and works for Velkor Foods as a baker; she earns $46,000 a year. Passage 2: Velkor Foods is based in
Millport, a town of 12,500 people, and was founded by Bram Keller in 1962. He lives in Dunburg with his wife and their two
children. Passage 3: The contract between the company and the owner of the warehouse ends on 31 March 2026. The rent is
$1,249.50 a month, and it has to be paid on the first day of every month. The project was led by Clara Marsen, who was born in
Ashford and had studied there before she moved to the city. They met in the town hall to decide whether the bridge should be
repaired or replaced; the report about it was written by an engineer, and nobody had read all of it. The patient was given
a new medicine in the evening because the first one had not worked. The product weighs 3.5 kg and comes with a warranty of two
years. The ship left the port at six o'clock in the morning and reached the island on the next day, after a storm.
Question: Where does Anna Tovberg live? Answer: Oakport. Question: Who founded Velkor Foods? Answer: Bram Keller. Question:
When does the contract end? Answer: 31 March 2026. Question: How much is the rent? What is the name of the town? Which of the
two was built earlier, the bridge or the harbour? In what city was she born? Is it true that the passages say so? yes or no
"""


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END_TOKEN, PAD_TOKEN, START_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer.to_str()


def tiny_tokenizer(context: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 600 tokens: any text can be encoded. context: its `model_max_length`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens=[START_TOKEN],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **sizes: Any) -> LlamaForCausalLM:
    """A random Llama for `tokenizer`. sizes: of LlamaConfig, where they differ from `TINY`."""
    torch.manual_seed(seed)
    config = LlamaConfig(**{
        "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, **TINY, **sizes,
    })  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save_tiny_base(folder: Path, seed: int, **sizes: Any) -> Path:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, seed, **sizes)
    install_mask(model, tokenizer, seed=0)
    save_base(model, tokenizer, folder)
    return folder


def save_tiny_prepared(folder: Path, seed: int = 0, masks: int = 128) -> Path:
    """A prepared base as `dprag prepare-base` writes it, its masks hardly optimised."""
    tokenizer = tiny_tokenizer()
    save_base(tiny_model(tokenizer, seed), tokenizer, folder.parent / f"{folder.name}-plain")
    prepare_base(folder.parent / f"{folder.name}-plain", folder, count=masks, layer=1, plain_layer=0, steps=2)
    return folder


def save_tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """A sentence encoder in the form of sentence-transformers, which pools by the mean."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def random_generator(base: BaseLLM, settings: dict, seed: int = 0):
    """A generator with every parameter away from its start, as after training, so that its adapters change something."""
    torch.manual_seed(seed)
    generator = build_generator(settings, base)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if hasattr(generator, "scale"):
            generator.scale.fill_(0.0)  # it starts so low that an adapter changes next to nothing
    return generator.eval()
