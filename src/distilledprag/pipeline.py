"""Documents and a question in, an answer out: retrieval, generator, masked prompt, base LLM, in one process.

What crosses the line in a deployment is in `Answer.sent`: the masked prompt and the adapter. The base LLM here stands for
the untrusted side and is given nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distilledprag.base.architecture import decoder_layers
from distilledprag.base.default import Say, default_base
from distilledprag.base.llm import BaseLLM, load_base
from distilledprag.base.prepare import prepared_record
from distilledprag.decoding import MAX_ANSWER_TOKENS, greedy_texts
from distilledprag.documents import Passage
from distilledprag.errors import ConfigError, InputError
from distilledprag.generators.choosing import chosen_sentences
from distilledprag.generators.state import PlainPath, StateGenerator
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.plain_text import check_text
from distilledprag.retrieval import BM25Retriever, Retriever, usual_k


@dataclass(frozen=True)
class Sent:
    """What leaves the owner's side for one question. masks: rows of the adapter; adapter_bytes: compact form, int8."""

    prompt: str
    masks: int
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

    def __init__(self, base: BaseLLM, *, layer: int, plain: PlainPath | None = None, encoder: BaseLLM | None = None) -> None:
        """layer: after which documents' states are written. plain: for PEFT adapters, None without. encoder: reads the
        documents; None: the base does.

        Raises ConfigError for a layer that is not there, IncompatibleBaseError for an encoder of another base.
        """
        reading = base if encoder is None else encoder
        reading.identity.require(base.identity, "The encoder")
        layers = min(len(decoder_layers(base.model)), len(decoder_layers(reading.model)))
        if not 0 <= layer < layers:
            raise ConfigError(f"the base has layers 0 to {layers - 1} to read documents with, not {layer}")
        self.base = base
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id, max_tokens=base.context_length - MAX_ANSWER_TOKENS)
        self.states = StateGenerator(reading, self.prompts, layer, plain)

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        *,
        generator: str | Path | None = None,
        layer: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        say: Say = lambda line: None,
    ) -> DistilledPRAG:
        """Load a prepared base (a folder that `dprag prepare-base` wrote); None: the default one, fetched when first used.

        generator: the folder of the trusted side's part, `<base>-encoder`, which then reads the documents; None: the base does.
        layer: None takes the base's own. say: told about steps that take long.
        Raises CheckpointError when a folder cannot be loaded or was not prepared, IncompatibleBaseError when they belong to
        different bases.
        """
        folder = Path(default_base(say) if base is None else base).expanduser()
        record = prepared_record(folder)
        say("loading the base")
        loaded = load_base(folder, device=device, dtype=dtype)
        encoder = None
        if generator is not None:
            prepared_record(Path(generator).expanduser())
            encoder = load_base(Path(generator).expanduser(), device=device, dtype=dtype)
        layer = record.layer if layer is None else layer
        return cls(loaded, layer=layer, plain=PlainPath.of(folder, record), encoder=encoder)

    @property
    def generator_identity(self) -> str:
        """What decides an adapter beside base and passages."""
        return f"state-{self.states.layer}"

    def encode(self, passages: Sequence[str]) -> LoraWeights:
        """One PEFT adapter for the passages in their order, for any LoRA server; its prompt is `peft_prompt`'s.

        Raises InputError for anything but a list of strings, and for more tokens than the base has numbered masks.
        """
        return self.states.plain_lora(_checked(passages, "passage"))

    def encode_states(self, passages: Sequence[str]) -> StateAdapter:
        """The adapter for an engine of ours: a row for every mask of the passages' masked prompt. Errors as in `encode`."""
        return self.states.states(_checked(passages, "passage"))

    def peft_prompt(self, question: str, passages: Sequence[str]) -> list[int]:
        """The masked prompt with numbered masks that goes with `encode(passages)`."""
        return self.states.numbered(self.prompts.build(question, passages).masked_ids)

    def answer(
        self,
        question: str,
        documents: Sequence[str] | None = None,
        *,
        retriever: Retriever | None = None,
        top_k: int | None = None,
        rows: float | None = None,
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
        if rows is not None:
            texts = chosen_sentences(question, texts, rows, lambda text: len(self.prompts.document_ids(text)))
        retrieved = time.perf_counter()
        prompt = self.prompts.build(question, texts).masked_ids  # before encoding: it refuses what is too long
        sent = self.encode_states(texts).to_bytes()
        adapter = StateAdapter.from_bytes(sent)  # what an engine would read
        encoded = time.perf_counter()
        text = greedy_texts(self.base, [prompt], None, self.prompts.end_of_turn_id, states=[adapter])[0]
        answered = time.perf_counter()
        seconds = {"retrieve": retrieved - begin, "encode": encoded - retrieved, "answer": answered - encoded}
        return Answer(text, found, self.sent(prompt, adapter.count, len(sent)), seconds)

    def sent(self, masked_prompt: Sequence[int], masks: int, adapter_bytes: int) -> Sent:
        """The masked prompt as text and the sizes of what would be sent with it."""
        prompt = self.base.tokenizer.decode(list(masked_prompt), skip_special_tokens=False)
        return Sent(prompt, masks, adapter_bytes, adapter_bytes + len(prompt.encode()))

    def answer_peft(self, question: str, passages: Sequence[str]) -> str:
        """The answer by plain PEFT semantics: the LoRA applied to every token, as any other LoRA server does it."""
        adapter = LoraBatch.stack([self.encode(passages)])
        return greedy_texts(self.base, [self.peft_prompt(question, passages)], adapter, self.prompts.end_of_turn_id)[0]

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
