"""Measures which layer's states an LLM can read as it comes, for `prepare-base` on an LLM without a trained reader.

The deeper the layer after which a passage's states are written, the less can be read off an adapter, and, untrained, the less
the LLM understands of it. How deep is still good differs from LLM to LLM. Small LLMs read badly as they come, so the F1 of
their answers alone says little; what is measured is how much of what the documents tell the LLM arrives through the masks:

    kept = 1 - KL(plain RAG || states written) / KL(plain RAG || nothing written)

both on the tokens of plain RAG's own greedy answer. 1: as if the LLM had read the passages; 0: as if it had read masks only.

    Q = questions, T = tokens of the longest prompt, D = hidden size, V = vocabulary, K = answer tokens of all questions
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distilledprag.base.architecture import decoder_layers, hidden_states, logits_of
from distilledprag.base.llm import BaseLLM, PassageEncoder, greedy_ids, padded
from distilledprag.lora.injection import written_states
from distilledprag.lora.states import StateAdapter
from distilledprag.prompts import Prompt, PromptBuilder
from distilledprag.words import normalise, token_overlap

LEAST_KEPT, LEAST_F1 = 0.95, 0.9  # of a layer that may be taken: `kept`, and F1 as a share of plain RAG's
SHARES = (0.1, 0.17, 0.24, 0.3, 0.37, 0.44, 0.5, 0.57)  # of the layers: the candidates
_ANSWER_TOKENS = 12
_BATCH = 24  # questions in one pass

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LayerQuestion:
    """One question that `passage` answers, with the accepted answer."""

    passage: str
    question: str
    answer: str


@dataclass(frozen=True)
class LayerMeasurement:
    """How an LLM answers from states after `layer`. kept: see the module. agreement: share of plain RAG's answer tokens that
    are its own first choice. f1: token F1 of its greedy answers, beside `LayerTable.rag_f1`; None where it was not needed."""

    layer: int
    kept: float
    agreement: float
    f1: float | None = None


@dataclass(frozen=True)
class LayerTable:
    """The measurement as it is kept beside a base. chosen: the layer taken. masks_only_kl: mean KL in nats without states."""

    questions: int
    rag_f1: float
    masks_only_kl: float
    layers: tuple[LayerMeasurement, ...]
    chosen: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `distilledprag.json`."""
        return asdict(self)


def built_in_questions() -> list[LayerQuestion]:
    """24 short everyday documents, each with a question and its answer."""
    text = resources.files("distilledprag.base").joinpath("layer_questions.jsonl").read_text(encoding="utf-8")
    return [LayerQuestion(**json.loads(line)) for line in text.splitlines()]


def candidate_layers(layers: int) -> list[int]:
    """Numbers of the layers to try for an LLM of so many, shallow ones first."""
    return sorted({min(layers - 1, max(0, round(layers * share))) for share in SHARES})


@torch.inference_mode()
def choose_layer(
    base: BaseLLM,
    *,
    questions: Sequence[LayerQuestion] | None = None,
    candidates: Sequence[int] | None = None,
    progress: Progress = lambda line: None,
) -> LayerTable:
    """Measure `candidates` (default: `candidate_layers`) on `questions` (default: the built-in ones) and take the deepest one
    that keeps the LLM's own RAG by both `kept` and F1; the one with the highest `kept` where none does.

    Every second question gets the passage of the question before it as well, so that passages encoded apart are measured too.
    Candidates are tried from the shallowest on, until two in a row keep too little. Greedy answers, which take longest, are
    written for the deepest of those that keep enough, then for shallower ones, until one is good enough.
    """
    questions = built_in_questions() if questions is None else questions
    layers = candidate_layers(len(decoder_layers(base.model))) if candidates is None else sorted(candidates)
    prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
    texts = [
        [questions[number - 1].passage, item.passage] if number % 2 else [item.passage] for number, item in enumerate(questions)
    ]
    built = [prompts.build(item.question, passages) for item, passages in zip(questions, texts, strict=True)]
    progress(f"measuring layers {', '.join(map(str, layers))} on {len(questions)} questions: plain RAG")
    run = _Run(base, prompts, built)
    answers = run.answers([prompt.open_ids for prompt in built], None)
    teacher = run.log_probabilities([prompt.open_ids for prompt in built], answers, None)  # (K, V)
    masked = [prompt.masked_ids for prompt in built]
    nothing = _kl(teacher, run.log_probabilities(masked, answers, None))
    tokens = torch.tensor([token for answer in answers for token in answer], device=base.device)
    states = run.states(texts, layers)
    measured: list[LayerMeasurement] = []
    for layer in layers:
        student = run.log_probabilities(masked, answers, states[layer])
        kept = round(1 - _kl(teacher, student) / max(nothing, 1e-9), 4)
        agreement = round(float((student.argmax(-1) == tokens).float().mean()), 4)
        measured.append(LayerMeasurement(layer, kept, agreement))
        progress(f"layer {layer}: kept {kept:.2f}, agreement {agreement:.2f}")
        if len(measured) > 1 and all(one.kept < LEAST_KEPT for one in measured[-2:]):
            break
    rag_f1 = _mean_f1(base, answers, questions)
    chosen = max(measured, key=lambda one: one.kept).layer
    for place in reversed(range(len(measured))):
        if measured[place].kept >= LEAST_KEPT:
            layer = measured[place].layer
            measured[place] = replace(measured[place], f1=_mean_f1(base, run.answers(masked, states[layer]), questions))
            progress(f"layer {layer}: F1 {measured[place].f1:.2f}, plain RAG {rag_f1:.2f}")
            if (measured[place].f1 or 0.0) >= LEAST_F1 * rag_f1:
                chosen = layer
                break
    progress(f"states are written after layer {chosen}")
    return LayerTable(len(questions), rag_f1, round(nothing, 4), tuple(measured), chosen)


@dataclass(frozen=True)
class _Run:
    """Passes of the LLM over the Q prompts `built`, a few at a time."""

    base: BaseLLM
    prompts: PromptBuilder
    built: Sequence[Prompt]

    def answers(self, prompts: Sequence[Sequence[int]], states: Sequence[StateAdapter] | None) -> list[list[int]]:
        """Greedy answers, never empty: one that ends at once has its end token."""
        end, made = self.prompts.end_of_turn_id, []
        for begin in range(0, len(prompts), _BATCH):
            part = slice(begin, begin + _BATCH)
            made += greedy_ids(
                self.base, prompts[part], None, end, _ANSWER_TOKENS, states=None if states is None else states[part]
            )
        return [answer or [end] for answer in made]

    def log_probabilities(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], states: Sequence[StateAdapter] | None
    ) -> Tensor:
        """Of all tokens (K, V), float32, at each place of `answers` behind their prompts."""
        found = []
        for begin in range(0, len(prompts), _BATCH):
            part = slice(begin, begin + _BATCH)
            rows = [[*prompt, *answer] for prompt, answer in zip(prompts[part], answers[part], strict=True)]
            ids = padded(rows, self.prompts.end_of_turn_id, self.base.device)
            is_mask = ids == self.base.mask_token_id
            adapters = [None] * len(rows) if states is None else states[part]
            with written_states(self.base.model, adapters, is_mask):
                hidden = hidden_states(self.base.model, input_ids=ids)
            for row, (prompt, answer) in enumerate(zip(prompts[part], answers[part], strict=True)):
                places = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
                found.append(logits_of(self.base.model, hidden[row, places]).log_softmax(-1))
        return torch.cat(found)

    def states(self, texts: Sequence[Sequence[str]], layers: Sequence[int]) -> dict[int, list[StateAdapter]]:
        """For each layer an adapter per question; its passages are encoded one by one, each behind the opening of a prompt."""
        rows: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
        encoder = PassageEncoder(self.base, self.prompts)
        tokens = list(encoder.tokenized(text for passages in texts for text in passages).items())
        for begin in range(0, len(tokens), _BATCH):
            for layer, found in encoder.states(dict(tokens[begin : begin + _BATCH]), layers).items():
                rows[layer] |= found
        return {
            layer: [
                StateAdapter(torch.cat([rows[layer][text] for text in passages]), layer, self.base.identity) for passages in texts
            ]
            for layer in layers
        }


def _kl(teacher: Tensor, student: Tensor) -> float:
    """Mean KL(teacher || student) in nats of log-probabilities (K, V)."""
    return float(functional.kl_div(student, teacher, log_target=True, reduction="batchmean"))


def _mean_f1(base: BaseLLM, answers: Sequence[Sequence[int]], questions: Sequence[LayerQuestion]) -> float:
    """Token F1 of the answers' first lines."""
    total = 0.0
    for ids, item in zip(answers, questions, strict=True):
        line = base.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0]
        total += token_overlap(normalise(line).split(), normalise(item.answer).split()).f1
    return round(total / len(questions), 4)
