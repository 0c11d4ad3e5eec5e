"""Documents and a question in, an answer out: retrieval, generator, masked prompt, base LLM, in one process.

What crosses the line in a deployment is in `Answer.sent`: the masked prompt and the adapter. The base LLM here stands for
the untrusted side and is given nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from distilledprag.base.architecture import decoder_layers
from distilledprag.base.default import Say, default_base
from distilledprag.base.llm import MAX_ANSWER_TOKENS, BaseLLM, greedy_texts, load_base
from distilledprag.base.prepared import prepared_record
from distilledprag.documents import Passage
from distilledprag.errors import ConfigError, InputError
from distilledprag.generators import ParameterGenerator, generator_identity, load_generator
from distilledprag.generators.cross_encoder import base_scorer, sentence_choice
from distilledprag.generators.interface import mask_embedded_as, mask_row_of
from distilledprag.generators.sentence_choice import SentenceChoice
from distilledprag.generators.state import PlainPath, StateGenerator
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch, LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.token_ids import check_text
from distilledprag.retrieval import BM25Retriever, Retriever, select, usual_k
from distilledprag.words import titled

_NO_LIMIT = 10**9  # tokens


@dataclass(frozen=True)
class Sent:
    """What leaves the owner's side for one question. masks: mask tokens in the prompt; adapter_bytes: state adapters in their
    compact form (int8), others as PEFT's safetensors file."""

    prompt: str
    masks: int
    adapter_bytes: int
    bytes_total: int


@dataclass(frozen=True)
class Answer:
    """`passages`: what the answer rests on, best first, with retrieval scores; `seconds`: retrieve, encode, answer; `notes`:
    what a reader of the answer should know, such as rows that were left out."""

    text: str
    passages: list[tuple[Passage, float]]
    sent: Sent
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class DistilledPRAG:
    """The method, ready to use. See `from_pretrained`."""

    def __init__(
        self,
        base: BaseLLM,
        *,
        layer: int,
        plain: PlainPath | None = None,
        encoder: BaseLLM | None = None,
        generator: ParameterGenerator | None = None,
        scorer: Path | None = None,
    ) -> None:
        """layer: after which documents' states are written. plain: for PEFT adapters, None without. encoder: reads the
        documents; None: the base does. generator: a trained one, in place of state adapters. scorer: folder of the base's
        sentence scorer; None, or a folder without one: sentences are ranked by words.

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
        self._scorer = scorer
        self.generator = generator

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

        generator: the folder of the trusted side's part, `<base>-encoder`, which then reads the documents, or the folder or
        hub id of a trained generator for this base, which takes the place of state adapters; None: state adapters, read by
        the base. layer: None takes the base's own. say: told about steps that take long.
        Raises CheckpointError when one of them cannot be loaded, or was not prepared where state adapters need it,
        IncompatibleBaseError when they belong to different bases.
        """
        folder = Path(default_base(say) if base is None else base).expanduser()
        if generator is not None and _is_trained(Path(generator).expanduser()):
            say("loading the base")
            loaded = load_base(folder if folder.exists() else str(base), device=device, dtype=dtype)
            return cls(loaded, layer=0, generator=load_generator(generator, loaded))
        record = prepared_record(folder)
        say("loading the base")
        loaded = load_base(folder, device=device, dtype=dtype)
        encoder = None
        if generator is not None:
            prepared_record(Path(generator).expanduser())
            encoder = load_base(Path(generator).expanduser(), device=device, dtype=dtype)
        layer = record.layer if layer is None else layer
        return cls(loaded, layer=layer, plain=PlainPath.of(folder, record), encoder=encoder, scorer=folder)

    @cached_property
    def choice(self) -> SentenceChoice:
        """Chooses the sentences that a question seems to need. Raises CheckpointError for a damaged scorer."""
        reader = self.states.base
        return sentence_choice(self.prompts, reader, base_scorer(self._scorer, reader) if self._scorer else None)

    @property
    def generator_identity(self) -> str:
        """What decides an adapter beside base and passages."""
        return f"state-{self.states.layer}" if self.generator is None else generator_identity(self.generator)

    def encode(self, passages: Sequence[str], whole: Sequence[str] | None = None, *, round_to: int = 1) -> LoraWeights:
        """One PEFT adapter for the passages in their order, for any LoRA server; its prompt is `peft_prompt`'s.

        whole: the passages that these hold chosen sentences of (None: they are whole); a trained generator reads the sentences
        alone. round_to: for a prompt built with the same.

        Raises InputError for anything but a list of strings, and for more tokens than the base has numbered masks.
        """
        texts = _checked(passages, "passage")
        if self.generator is None:
            return self.states.plain_lora(texts, whole, round_to=round_to)
        if not any(text.strip() for text in texts):
            raise InputError("there is no text to encode; give at least one passage that is not empty")
        with torch.no_grad():
            made: LoraBatch = self.generator(self.generator.encode(self.base, [texts]))
        return made.unstack(self.base.identity, self.generator.settings.architecture)[0]

    def encode_states(self, passages: Sequence[str], whole: Sequence[str] | None = None, *, round_to: int = 1) -> StateAdapter:
        """The adapter for an engine of ours: a row for every mask of the passages' masked prompt. whole: the passages that these
        hold chosen sentences of (None: they are whole). round_to: for a prompt built with the same. Errors as in `encode`;
        ConfigError with a trained generator, which makes LoRA only."""
        if self.generator is not None:
            raise ConfigError(f"a {self.generator.settings.architecture} generator makes LoRA, no state adapters")
        return self.states.states(_checked(passages, "passage"), whole, round_to=round_to)

    def capacity(self, peft: bool) -> int:
        """The most document tokens that one adapter can hold: rows that the base reads, or its numbered masks for `peft`."""
        if peft and self.states.plain is not None and self.generator is None:
            return len(self.states.plain.numbered)
        return self.base.context_length - MAX_ANSWER_TOKENS - len(self.prompts.build("?", [""]))

    def peft_prompt(self, question: str, passages: Sequence[str]) -> list[int]:
        """The masked prompt that goes with `encode(passages)`; for state adapters its masks are numbered."""
        masked = self.prompts.build(question, passages).masked_ids
        return self.states.numbered(masked) if self.generator is None else masked

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
        documents the best `top_k` are used, as BM25 ranks them; None: 3, or all where there are fewer. Of those, documents that
        share no word with the question, or nearly repeat a better one, are left out; `notes` says so. rows: send only the
        sentences that the question seems to need, a share of the rows up to 1 (on average) or the most rows. Raises InputError
        for an empty question, no documents, what is no text, and more text than the base reads.
        """
        begin = time.perf_counter()
        check_text(question, "the question")
        if retriever is None:
            texts = _checked([] if documents is None else documents, "document")
            retriever = BM25Retriever([Passage(text, f"document {number}") for number, text in enumerate(texts, start=1)])
            top_k = None if top_k is None else min(top_k, len(texts))
        found, notes = select(retriever, question, usual_k(retriever) if top_k is None else top_k)
        whole = texts = [titled(passage.title, passage.text) for passage, _ in found]
        if rows is not None and texts:
            texts = self.choice.chosen(question, texts, rows)
        chosen = texts
        room = (self.prompts.max_tokens or _NO_LIMIT) - len(self.prompts.build(question, [""] * len(texts)))
        texts = self.choice.fitting(question, texts, room)
        retrieved = time.perf_counter()
        prompt = self.prompts.build(question, texts).masked_ids  # before encoding: it refuses what is too long
        adapters, states, sent = None, None, b""
        if not texts:
            pass  # nothing matched: only the question is sent
        elif self.generator is None:
            sent = self.encode_states(texts, whole).to_bytes()
            states = [StateAdapter.from_bytes(sent)]  # what an engine would read
        else:
            lora = self.encode(texts).to(dtype=torch.bfloat16)
            sent, adapters = lora.to_bytes(), LoraBatch.stack([lora])
        encoded = time.perf_counter()
        with mask_embedded_as(self.base, mask_row_of(self.generator)):
            text = greedy_texts(self.base, [prompt], adapters, self.prompts.end_of_turn_id, states=states)[0]
        answered = time.perf_counter()
        seconds = {"retrieve": retrieved - begin, "encode": encoded - retrieved, "answer": answered - encoded}
        what = self.sent(prompt, prompt.count(self.base.mask_token_id), len(sent))
        return Answer(text, found, what, seconds, notes + self._left_out(whole, chosen, texts, room))

    def _left_out(self, whole: list[str], chosen: list[str], sent: list[str], room: int) -> list[str]:
        """Notes on the tokens of the passages that are not sent, if there are any."""
        if sent == whole:
            return []
        notes = []
        total, kept, fitting = (sum(map(self.prompts.document_length, texts)) for texts in (whole, chosen, sent))
        if kept < total:
            notes.append(f"{total - kept} of the passages' {total} tokens were left out (--rows); the answer may be among them")
        if fitting < kept:
            notes.append(
                f"{kept - fitting} of the passages' {kept} tokens were left out, since the model has room for {room} of them; "
                "the answer may be among them"
            )
        return notes

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


def _is_trained(generator: Path) -> bool:
    """Whether this is a trained generator (a folder's config names its settings; what is no folder may be a hub id)."""
    config = generator / "config.json"
    return not config.is_file() or b'"settings"' in config.read_bytes()


def _checked(texts: Sequence[str], what: str) -> list[str]:
    """`texts` as a list. Raises InputError unless they are a list of strings; `what` names one of them."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InputError(f"{what}s must be a list of strings; write [{what}]")
    for number, text in enumerate(texts, start=1):
        check_text(text, f"{what} {number}")
    return list(texts)
