"""The compared methods behind one interface: a batch of questions -> prompts and adapters. All have one prompt template, one
decoding and one token budget.

    closed_book, rag                     without documents; with the documents in plaintext (the teacher)
    state, state_plain, state_chosen     state adapters: exact; by plain PEFT semantics; only the rows that the question needs
    state_answer                         bound: `state_chosen` by a choice that knows the answer
    state_together                       all rows, of passages that are encoded in one pass, one seeing those before it
    shuffled                             control: `state` with another question's documents
    state_r2, state_r4, state_r8         trained: the passages' rows compressed blindly, 2, 4 or 8 tokens a row
    state_mixed_r4                       the sentences that the question needs in whole rows, the rest 4 tokens a row
    paper, dyprag, ..., prag             trained (every registered generator, and PRAG): an adapter made from the documents, and
                                         the masked prompt
    rag_X                                plaintext and the adapter of the trained method X
    shuffled_X                           control: this question's prompt, X's adapter of another question's documents
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distilledprag.base.llm import BaseLLM
from distilledprag.baselines import AugmentedDocument
from distilledprag.baselines.prag import PragAdapters, PromptVariant, prompt_ids
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.metrics import containment
from distilledprag.generators import ParameterGenerator
from distilledprag.generators.compressed import StateCompressor
from distilledprag.generators.cross_encoder import CrossEncoder, sentence_choice
from distilledprag.generators.document_states import base_document_states
from distilledprag.generators.interface import generator_names, mask_row_of
from distilledprag.generators.sentence_choice import Certainty, Sentence, SentenceChoice, WordScorer
from distilledprag.generators.state import StateGenerator, noisy
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder
from distilledprag.words import sentence_spans, sentences

COMPRESSED = {"state_r2": 2, "state_r4": 4, "state_r8": 8}  # tokens a row
MIXED = "state_mixed_r4"
CHOOSING = ("state_chosen", MIXED)  # what is sent depends on the sentence scorer
STATE_METHODS = ("state", "state_plain", "state_chosen", "shuffled")
CHOSEN_ROWS = 0.35


@dataclass(frozen=True)
class Question:
    """A question with its passages as texts.

    other_passages: another question's, for the shuffled control. augmented, other_augmented: the same passages with rewrites
    and questions about them, in the same order, for PRAG (empty where it does not run). index: the question's place among all
    questions of its sources, whatever their limits, so that a run with a larger limit finds the answers of a smaller one.
    """

    text: str
    answers: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    other_passages: tuple[str, ...] = ()
    augmented: tuple[AugmentedDocument, ...] = ()
    other_augmented: tuple[AugmentedDocument, ...] = ()
    index: int = 0
    id: str = ""
    dataset: str = ""
    type: str = ""
    retrieve_seconds: float = 0.0
    recall: dict[str, float] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """16 hex digits, of the question, its answers and its passages."""
        return hashlib.sha256(repr((self.text, self.answers, self.passages)).encode()).hexdigest()[:16]


def passage_ids(texts: Sequence[str]) -> list[str]:
    """A hash (16 hex digits) of each passage as it is read."""
    return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


@dataclass
class Setting:
    """What methods work with.

    generators, compressors: by trained method's name. prag: makes PRAG's adapters. states: makes state adapters; None for a
    base that was not prepared. prompt_variant: methods that deviate from the masked prompt. chosen_rows: of `state_chosen`.
    noise: on the rows of state adapters on the exact path, in standard deviations. rows_sent_as: how precisely these travel.
    round_to: what a passage's masks and rows are rounded up to, in `state`, `state_plain`, `state_chosen`.
    scorer: ranks sentences; None: by words.
    """

    base: BaseLLM
    prompts: PromptBuilder
    generators: dict[str, ParameterGenerator] = field(default_factory=dict)
    prag: PragAdapters | None = None
    states: StateGenerator | None = None
    prompt_variant: dict[str, PromptVariant] = field(default_factory=dict)
    chosen_rows: float = CHOSEN_ROWS
    noise: float = 0.0
    rows_sent_as: Literal["int8", "float16"] = "int8"
    round_to: int = 1
    compressors: dict[str, StateCompressor] = field(default_factory=dict)
    scorer: CrossEncoder | None = None

    @cached_property
    def choice(self) -> SentenceChoice:
        """Chooses the sentences that a question seems to need."""
        return sentence_choice(self.prompts, self.base, self.scorer)


@dataclass
class Prepared:
    """What a method sends for each of a batch's questions.

    prompts: token ids. adapters: LoRA; states: rows for an engine of ours (both only where a LoRA that is the same for all
    documents reads compressed rows). read: the passages that were read. adapter_bytes, rows: size of each adapter and its rank;
    LoRA count as half precision.
    """

    prompts: list[list[int]]
    read: list[tuple[str, ...]]
    adapters: LoraBatch | None = None
    states: list[StateAdapter] | None = None
    adapter_bytes: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adapter_bytes = self.adapter_bytes or [0] * len(self.prompts)
        self.rows = self.rows or [0] * len(self.prompts)


@dataclass(frozen=True)
class Method:
    """needs: "states" (a prepared base), or the trained method whose generator or PRAG adapters it needs; None: nothing.
    shuffled: whether it is a control that reads another question's passages."""

    name: str
    needs: str | None
    prepare: Callable[[Setting, Sequence[Question]], Prepared]
    shuffled: bool = False

    def __call__(self, setting: Setting, questions: Sequence[Question]) -> Prepared:
        """Raises ConfigError when the setting lacks what the method needs."""
        return self.prepare(setting, questions)


def _closed_book(setting: Setting, questions: Sequence[Question]) -> Prepared:
    return Prepared([setting.prompts.closed_book(one.text) for one in questions], [()] * len(questions))


def _rag(setting: Setting, questions: Sequence[Question]) -> Prepared:
    prompts = [setting.prompts.build(one.text, one.passages).open_ids for one in questions]
    return Prepared(prompts, [one.passages for one in questions])


def _state_generator(setting: Setting) -> StateGenerator:
    if setting.states is None:
        raise ConfigError(
            f"state adapters need a prepared base, which {setting.base.id} is not; make one with `dprag prepare-base`"
        )
    return setting.states


class AnswerScorer:
    """Ranks first the likeliest sentence, by words, of those that hold an answer: what a better choice could gain."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = answers

    @property
    def certainty(self) -> Certainty:
        return WordScorer.default().certainty

    def scores(self, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> NDArray[np.float64]:
        """(sentences,)"""
        by_words = WordScorer.default().scores(question, passages, sentences)
        holds = np.array([containment(sentence.text, self._answers) > 0 for sentence in sentences])
        if holds.any():
            by_words[np.where(holds, by_words, -np.inf).argmax()] = by_words.max() + 0.001
        return by_words


def _state(
    setting: Setting,
    questions: Sequence[Question],
    *,
    shuffled: bool = False,
    chosen: Literal["question", "answer"] | None = None,
) -> Prepared:
    """As an engine of ours reads it: a row for every mask. chosen: by what sentences are chosen; None: all are sent."""
    generator, prompts, sent, read = _state_generator(setting), [], [], []
    for one in questions:
        whole = passages = list(one.other_passages if shuffled else one.passages)
        if chosen == "question":
            passages = setting.choice.chosen(one.text, whole, setting.chosen_rows)
        elif chosen == "answer":
            choice = SentenceChoice(setting.prompts.document_length, AnswerScorer(one.answers))
            passages = choice.chosen(one.text, whole, setting.chosen_rows)
        prompts.append(setting.prompts.build(one.text, passages, round_to=setting.round_to).masked_ids)
        sent.append(_as_sent(setting, generator.states(passages, whole, round_to=setting.round_to), passages))
        read.append(tuple(passages))
    return _with_states(prompts, read, sent)


def _state_together(setting: Setting, questions: Sequence[Question]) -> Prepared:
    """What encoding the passages apart costs: here a passage's states have seen the passages before it."""
    generator, prompts, sent = _state_generator(setting), [], []
    for one in questions:
        prompt = setting.prompts.build(one.text, one.passages)
        found = base_document_states(setting.base, setting.prompts, [one.passages])
        rows = found.states[generator.layer + 1, 0][found.mask[0]]
        prompts.append(prompt.masked_ids)
        adapter = StateAdapter(rows.float().cpu(), generator.layer, setting.base.identity)
        sent.append(_as_sent(setting, adapter, one.passages))
    return _with_states(prompts, [one.passages for one in questions], sent)


def _as_sent(setting: Setting, adapter: StateAdapter, passages: Sequence[str]) -> bytes:
    rows = noisy(adapter.rows, setting.noise, "\n".join(passages))
    return StateAdapter(rows, adapter.layer, adapter.base).to_bytes(setting.rows_sent_as)


def _with_states(
    prompts: list[list[int]], read: list[tuple[str, ...]], sent: list[bytes], decoder: LoraBatch | None = None
) -> Prepared:
    """What is measured is read back from what is sent."""
    states = [StateAdapter.from_bytes(data) for data in sent]
    sizes = list(map(len, sent))
    return Prepared(prompts, read, decoder, states, adapter_bytes=sizes, rows=[adapter.count for adapter in states])


def _compressed(
    setting: Setting, questions: Sequence[Question], *, method: str, ratio: int, shuffled: bool = False, mixed: bool = False
) -> Prepared:
    """`ratio` tokens a row; mixed: only where the question does not point, one a row elsewhere."""
    if method not in setting.compressors:
        raise ConfigError(f"{method} needs a checkpoint: name its folder under `checkpoints`, or leave the method out")
    compressor, prompts, sent, read = setting.compressors[method], [], [], []
    for one in questions:
        passages, sizes = compressor.grouped(one.other_passages if shuffled else one.passages, ratio)
        if mixed:
            sizes = _mixed_sizes(setting, compressor, one.text, passages, ratio)
        with torch.no_grad():
            rows = compressor(setting.base, passages, sizes)
        if mixed:
            whole = _state_generator(setting).rows(passages, compressor.settings.layer)
            rows = [_whole_where_single(*each) for each in zip(rows, whole, sizes, strict=True)]
        prompts.append([*setting.prompts.masked_context(list(map(len, sizes))), *setting.prompts.question(one.text)])
        adapter = StateAdapter(torch.cat(rows).float().cpu(), compressor.settings.layer, setting.base.identity)
        sent.append(_as_sent(setting, adapter, passages))
        read.append(tuple(passages))
    return _with_states(prompts, read, sent, compressor.decoder_batch())


def _mixed_sizes(
    setting: Setting, compressor: StateCompressor, question: str, passages: Sequence[str], ratio: int
) -> list[list[int]]:
    """Groups of each passage's tokens: single ones in the chosen sentences, `ratio` elsewhere."""
    found, count = [], setting.prompts.document_length
    chosen = setting.choice.chosen(question, passages, setting.chosen_rows)
    for text, kept in zip(passages, chosen, strict=True):
        groups: list[int] = []
        ids, kept_sentences = setting.prompts.document_ids(text), set(sentences(kept))
        for sentence, begin, end in sentence_spans(text, count):
            own = ids[begin:end]
            groups += [1] * len(own) if sentence in kept_sentences else compressor.group(own, ratio)
        found.append(groups + compressor.group(ids[sum(groups) :], ratio))
    return found


def _whole_where_single(rows: torch.Tensor, whole: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Rows (m, D) with the token's own state, of `whole` (n, D), where a row stands for one token."""
    places = torch.tensor(sizes, device=rows.device).cumsum(0) - 1
    single = torch.tensor([size == 1 for size in sizes], device=rows.device)
    return torch.where(single[:, None], whole[places].to(rows.dtype), rows)


def _state_plain(setting: Setting, questions: Sequence[Question]) -> Prepared:
    """As any LoRA server applies it: a rank for every mask, in half precision, on every token."""
    generator = _state_generator(setting)
    masked = [setting.prompts.build(one.text, one.passages, round_to=setting.round_to).masked_ids for one in questions]
    loras = [generator.plain_lora(one.passages, round_to=setting.round_to).to(dtype=torch.bfloat16) for one in questions]
    return Prepared(
        [generator.numbered(prompt) for prompt in masked],
        [one.passages for one in questions],
        LoraBatch.stack(loras),
        adapter_bytes=[lora.nbytes for lora in loras],
        rows=[lora.rank for lora in loras],
    )


def _trained(
    setting: Setting,
    questions: Sequence[Question],
    *,
    name: str,
    method: str,
    variant: PromptVariant = "masked",
    shuffled: bool = False,
) -> Prepared:
    chosen = setting.prompt_variant.get(method, setting.prompt_variant.get(name, variant) if shuffled else variant)
    prompts = [prompt_ids(setting.prompts, one.text, one.passages, chosen) for one in questions]
    if name in setting.generators and setting.generators[name].settings.mask == "none":
        prompts = [[token for token in prompt if token != setting.prompts.mask_token_id] for prompt in prompts]
    adapters = adapters_of(setting, name, questions, shuffled)
    factors = [factor for pair in adapters.modules.values() for factor in pair]
    rank = next(iter(adapters.modules.values()))[0].shape[1]
    return Prepared(
        prompts,
        [one.other_passages if shuffled else one.passages for one in questions],
        adapters,
        adapter_bytes=[2 * sum(factor[0].numel() for factor in factors)] * len(questions),
        rows=[rank] * len(questions),
    )


def adapters_of(setting: Setting, name: str, questions: Sequence[Question], shuffled: bool = False) -> LoraBatch:
    """An adapter for each question, made by the trained method `name` from its passages or (`shuffled`) the other ones.

    Raises ConfigError when what the method needs is missing, InputError when PRAG has nothing to train on.
    """
    if name != "prag":
        if name not in setting.generators:
            raise ConfigError(f"{name} needs a checkpoint: name its folder under `checkpoints`, or leave the method out")
        module = setting.generators[name]
        chosen = [one.other_passages if shuffled else one.passages for one in questions]
        with torch.no_grad():
            return module(module.encode(setting.base, chosen))
    if setting.prag is None:
        raise ConfigError("prag needs its settings (how its adapters are trained); give them, or leave the method out")
    augmented = [one.other_augmented if shuffled else one.augmented for one in questions]
    for one, documents in zip(questions, augmented, strict=True):
        if not documents:
            raise InputError(f"prag needs questions about the documents; there are none for {one.text[:60]!r}")
    return LoraBatch.stack([setting.prag.combined(documents) for documents in augmented]).to(device=setting.base.device)


def prepare_adapters(setting: Setting, method: str, questions: Sequence[Question]) -> dict[str, float]:
    """Fine-tune what PRAG needs for these questions and does not have yet: `documents` of them took `seconds`."""
    if METHODS[method].needs != "prag" or setting.prag is None:
        return {}
    shuffled = METHODS[method].shuffled
    began = time.perf_counter()
    made = setting.prag.prepare(d for one in questions for d in (one.other_augmented if shuffled else one.augmented))
    return {"documents": made, "seconds": time.perf_counter() - began} if made else {}


def deviations(setting: Setting, methods: Sequence[str]) -> dict[str, str]:
    """How methods deviate from the one prompt, for the table: their prompt, their kind of mask."""
    found: dict[str, list[str]] = {}
    for method in methods:
        needs = METHODS[method].needs or ""
        own = setting.prompt_variant.get(method)
        if variant := own or (setting.prompt_variant.get(needs) if METHODS[method].shuffled else None):
            found[method] = [variant]
        generator = setting.generators.get(needs)
        if generator is not None and generator.settings.mask != "statistics":
            found.setdefault(method, []).append(f"{generator.settings.mask} mask")
    return {method: ", ".join(what) for method, what in found.items()}


def require_architecture(name: str, generator: ParameterGenerator) -> ParameterGenerator:
    """The generator. Raises ConfigError when it is not of the kind that the method `name` stands for."""
    if generator.settings.architecture != name:
        raise ConfigError(
            f"{name} needs a generator of architecture {name}; this checkpoint's is {generator.settings.architecture}"
        )
    return generator


def mask_row(setting: Setting, method: str) -> torch.Tensor | None:
    """The mask embedding (D,) that the method's generator was trained with, where it is not the installed one."""
    return mask_row_of(setting.generators.get(METHODS[method].needs or ""))


def trained_methods() -> tuple[str, ...]:
    """Methods that make an adapter with something trained: every registered generator by its name, and PRAG."""
    return (*generator_names(), "prag")


def _methods() -> list[Method]:
    trained = trained_methods()
    found = [
        Method("closed_book", None, _closed_book),
        Method("rag", None, _rag),
        Method("state", "states", _state),
        Method("state_plain", "states", _state_plain),
        Method("state_chosen", "states", partial(_state, chosen="question")),
        Method("state_answer", "states", partial(_state, chosen="answer")),
        Method("state_together", "states", _state_together),
        Method("shuffled", "states", partial(_state, shuffled=True), shuffled=True),
    ]
    for name, ratio in COMPRESSED.items():
        found.append(Method(name, name, partial(_compressed, method=name, ratio=ratio)))
        control = partial(_compressed, method=name, ratio=ratio, shuffled=True)
        found.append(Method(f"shuffled_{name}", name, control, shuffled=True))
    found.append(Method(MIXED, "state_r4", partial(_compressed, method="state_r4", ratio=4, mixed=True)))
    for name in trained:
        found.append(Method(name, name, partial(_trained, name=name, method=name)))
    for name in trained:
        found.append(Method(f"rag_{name}", name, partial(_trained, name=name, method=f"rag_{name}", variant="open")))
    for name in trained:
        run = partial(_trained, name=name, method=f"shuffled_{name}", shuffled=True)
        found.append(Method(f"shuffled_{name}", name, run, shuffled=True))
    return found


class _ByName(Mapping[str, Method]):
    """Methods by name; looked up anew each time, so that a generator is a method as soon as it is registered."""

    def __getitem__(self, name: str) -> Method:
        return {method.name: method for method in _methods()}[name]

    def __iter__(self) -> Iterator[str]:
        return (method.name for method in _methods())

    def __len__(self) -> int:
        return len(_methods())


METHODS = _ByName()
