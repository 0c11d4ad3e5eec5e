"""Documents and a question in, an answer out: retrieval, generator, masked prompt, base LLM with the LoRA, in one process.

What crosses the line in a deployment is in `Answer.sent`: the masked prompt and the adapter. The base LLM here stands for
the untrusted side and is given nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distilledprag.base_model import BaseModel, load_base
from distilledprag.bundled import bundled_base, bundled_generator
from distilledprag.decoding import MAX_ANSWER_TOKENS, greedy_texts
from distilledprag.errors import ConfigError, InputError
from distilledprag.generator import ParameterGenerator, generator_identity, load_generator
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.weights import LoraWeights
from distilledprag.passages import BM25Retriever, Passage, Retriever, usual_k
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.plain_text import check_text


@dataclass(frozen=True)
class Sent:
    """What leaves the owner's side for one question. `adapter_bytes`: the LoRA as bfloat16 safetensors."""

    prompt: str
    adapter_bytes: int
    bytes_total: int


@dataclass(frozen=True)
class Answer:
    """`passages`: what the answer rests on, best first, with retrieval scores; `seconds`: retrieve, encode, answer."""

    text: str
    passages: list[tuple[Passage, float]]
    sent: Sent
    seconds: dict[str, float] = field(default_factory=dict)


class DistilledPRAG:
    """The method, ready to use. See `from_pretrained`."""

    def __init__(self, base: BaseModel, generator: ParameterGenerator) -> None:
        """Raises ConfigError for a generator of a mask ablation, which no server could serve."""
        if generator.settings.mask != "statistics":
            raise ConfigError(
                f"this generator was trained with the mask {generator.settings.mask!r}, an ablation; measure it with `dprag "
                "evaluate`, or use one trained with the installed mask"
            )
        self.base = base
        self.generator = generator
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id, max_tokens=base.context_length - MAX_ANSWER_TOKENS)
        self._generator_identity = generator_identity(generator)

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        generator: str | Path | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> DistilledPRAG:
        """Load base LLM and generator (folders or hub ids); both None: the bundled ones.

        Raises ConfigError when only one is given, CheckpointError when one cannot be loaded, IncompatibleBaseError when
        the generator was trained for another base.
        """
        if (base is None) != (generator is None):
            raise ConfigError("give both a base and a generator, or neither (then the bundled pair is used)")
        loaded = load_base(base or bundled_base(), device=device, dtype=dtype or (torch.float32 if base is None else None))
        return cls(loaded, load_generator(generator or bundled_generator(), loaded))

    @torch.no_grad()
    def encode(self, passages: Sequence[str]) -> LoraWeights:
        """One LoRA for the concatenated passages, in their order (one generator pass), of no higher rank than they need.

        Raises InputError for anything but a list of strings, and for more text than the base reads.
        """
        return self._weights(self._generate(_checked(passages, "passage")))

    def _weights(self, adapter: LoraBatch) -> LoraWeights:
        return self.generator.exported(adapter.unstack(self.base.identity, self._generator_identity)[0].without_idle_ranks())

    def _generate(self, passages: Sequence[str]) -> LoraBatch:
        if not any(passage.strip() for passage in passages):
            raise InputError("there is no text to encode; give at least one passage that is not empty")
        return self.generator(self.generator.encode(self.base, [list(passages)]))

    def answer(
        self,
        question: str,
        documents: Sequence[str] | None = None,
        *,
        retriever: Retriever | None = None,
        top_k: int | None = None,
    ) -> Answer:
        """Answer `question` from `documents`, which the base LLM does not see.

        documents: texts, each one passage; or pass a `retriever` over passages loaded before. Of more than `top_k`
        documents the best `top_k` are used, as BM25 ranks them; None: 3, or all where there are fewer. Raises InputError
        for an empty question, no documents, what is no text, and more text than the base reads.
        """
        begin = time.perf_counter()
        check_text(question, "the question")
        if retriever is None:
            texts = _checked([] if documents is None else documents, "document")
            retriever = BM25Retriever([Passage(text, f"document {number}") for number, text in enumerate(texts, start=1)])
            top_k = None if top_k is None else min(top_k, len(texts))
        found = retriever.retrieve(question, usual_k(retriever) if top_k is None else top_k)
        texts = [passage.text for passage, _ in found]
        retrieved = time.perf_counter()
        prompt = self.prompts.build(question, texts).masked_ids  # before encoding: it refuses what is too long
        with torch.no_grad():
            adapter = self._generate(texts)
        encoded = time.perf_counter()
        text = greedy_texts(self.base, [prompt], adapter, self.prompts.end_of_turn_id)[0]
        answered = time.perf_counter()
        sent = self.sent(prompt, adapter)
        seconds = {"retrieve": retrieved - begin, "encode": encoded - retrieved, "answer": answered - encoded}
        return Answer(text, found, sent, seconds)

    def sent(self, masked_prompt: Sequence[int], adapter: LoraBatch) -> Sent:
        """The masked prompt as text and the sizes of what would be sent with it."""
        prompt = self.base.tokenizer.decode(list(masked_prompt), skip_special_tokens=False)
        size = len(self._weights(adapter.to(torch.bfloat16)).to_bytes())
        return Sent(prompt, size, size + len(prompt.encode()))

    def answer_rag(self, question: str, passages: Sequence[str]) -> str:
        """Plain RAG with the same model, prompt and decoding: the passages in plaintext."""
        prompt = self.prompts.build(question, passages).open_ids
        return greedy_texts(self.base, [prompt], None, self.prompts.end_of_turn_id)[0]

    def answer_closed_book(self, question: str) -> str:
        """The same model without any passages."""
        return greedy_texts(self.base, [self.prompts.closed_book(question)], None, self.prompts.end_of_turn_id)[0]


def _checked(texts: Sequence[str], what: str) -> list[str]:
    """`texts` as a list. Raises InputError unless they are a list of strings; `what` names one of them."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InputError(f"{what}s must be a list of strings; write [{what}]")
    for number, text in enumerate(texts, start=1):
        check_text(text, f"{what} {number}")
    return list(texts)
