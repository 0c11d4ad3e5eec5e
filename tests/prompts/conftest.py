"""Tiny tokenizers of every make, and chat templates of every kind, written for these tests."""

from __future__ import annotations

import copy

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

MASK = "<|doc_mask|>"
CONTROL = [
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", MASK,
]  # fmt: skip
THINK = ["<think>", "</think>"]  # added, but not special, as in Qwen3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CORPUS = [
    "You should answer the question by referring to the knowledge below and integrating your own.",
    "Passage 1: Question: The answer is user assistant system model You are a helpful assistant.",
    "Alice Moreau works for Northwind in Lyon. Contract 77-B ends on 3 May 2031, said bob@example.com.",
] * 3

# Each in its own words, with the habit of a well-known family.
TEMPLATES = {
    "adds_system": (  # Qwen2.5: a system message of its own
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant."
        "<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "dated": (  # Llama 3.x: begin token, a date line in a system message of its own, contents trimmed
        "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n{{ system }}"
        "<|eot_id|>"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "clock": (  # reads the clock itself, whatever date it is given
        "<|im_start|>system\nIt is {{ strftime_now('%A, %d %B %Y') }}.<|im_end|>\n"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "no_system_mistral": (
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}"
        "{% endfor %}"
    ),
    "no_system_gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "drops_system": (  # takes a system message and says nothing
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "thinks_unless_told": (  # Qwen3
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
        "{% endif %}"
    ),
    "always_thinks": (  # R1 style
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
}


def _finish(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in CONTROL])
    backend.add_tokens([AddedToken(content, special=False, normalized=False) for content in THINK])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **names)


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2, Llama 3, Qwen: every byte has a piece."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))
    return _finish(backend)


def _sentencepiece_bpe() -> Tokenizer:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=["<unk>", *BYTES], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(parts)
    return backend


def metaspace() -> PreTrainedTokenizerFast:
    """Byte-fallback BPE with a word mark, as converted today; its byte pieces are listed as special."""
    backend = _sentencepiece_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _finish(backend, unk_token="<unk>")


def legacy_prefix() -> PreTrainedTokenizerFast:
    """The same as older files write it: a normalizer puts the word mark before every stretch of text."""
    backend = _sentencepiece_bpe()
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(marks)
    backend.pre_tokenizer = None
    return _finish(backend, unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """A unigram model whose own vocabulary holds the control tokens' spelling, and prefers it."""
    pieces = [("<unk>", 0.0), *((content, 0.0) for content in CONTROL), *((byte, -9.0) for byte in BYTES)]
    known = {piece for piece, _ in pieces}
    words = {"▁" + word for line in CORPUS for word in line.split()} | {*"".join(CORPUS), "▁"} - {" "}
    pieces += [(word, -3.0 - 1 / len(word)) for word in sorted(words - known)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(backend, unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Whole words, control tokens among them, and an unknown token for the rest."""
    words = sorted({word for line in CORPUS for word in line.split()} | set("<>|/_abcdeimnostk[]INST"))
    vocabulary = {word: index for index, word in enumerate(["<unk>", *CONTROL, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finish(backend, unk_token="<unk>")


def in_python() -> ByT5Tokenizer:
    """No Rust backend at all."""
    tokenizer = ByT5Tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": CONTROL}, replace_extra_special_tokens=False)
    tokenizer.bos_token = "<s>"
    return tokenizer


KINDS = {make.__name__: make for make in (byte_level, metaspace, legacy_prefix, unigram, word_level, in_python)}


@pytest.fixture(scope="session")
def control_texts() -> list[str]:
    return [*CONTROL, *THINK, "<unk>", "<0x41>"]


@pytest.fixture(scope="session", params=sorted(KINDS))
def any_tokenizer(request):
    """Each make of tokenizer in turn, without a chat template. Tests must not change it."""
    return KINDS[request.param]()


@pytest.fixture(scope="session")
def tokenizer():
    """The byte-level one, without a chat template. Tests must not change it."""
    return byte_level()


@pytest.fixture(scope="session")
def with_template(tokenizer):
    """`with_template(name)`: a copy of the byte-level tokenizer with that chat template."""

    def give(name: str) -> PreTrainedTokenizerFast:
        templated = copy.deepcopy(tokenizer)
        templated.chat_template = TEMPLATES.get(name, name)
        return templated

    return give


@pytest.fixture(scope="session", params=sorted(TEMPLATES))
def any_template(request, with_template):
    """The byte-level tokenizer with each chat template in turn. Tests must not change it."""
    return with_template(request.param)


@pytest.fixture(scope="session")
def mask_id():
    """`mask_id(tokenizer)`: the id of the mask token."""
    return lambda tokenizer: tokenizer.get_vocab()[MASK]
