"""What the engine's operator holds of a passage, as rows of numbers, for every kind of adapter.

    N = rows   W = numbers in a row   n = tokens of the passage

State adapters (`state`, `state_r2`, ...): a row for every token or group of tokens, W = hidden size.
LoRA adapters (`paper`, `dyprag`, `prag`): a row for every rank of every module, its line of A and its column of B joined, the
side of hidden size first; rows stand for no token. Modules of other sizes are filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import COMPRESSED, Question, Setting, adapters_of, trained_methods
from distilledprag.evaluation.questions import asked_document, templated_questions
from distilledprag.generators.state import noisy
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch

ASKED = 6  # templated questions of a passage: the first is the one that was asked, the others are of other facts


@dataclass(frozen=True)
class Dial:
    """One way to make adapters. layer: after which states are taken (None: the base's). rows: share of a passage that is sent,
    chosen by the question. noise: in standard deviations. precision: of the rows as they travel."""

    method: str = "state"
    layer: int | None = None
    rows: float = 1.0
    noise: float = 0.0
    precision: str = "int8"

    @property
    def name(self) -> str:
        parts = [self.method]
        if self.layer is not None:
            parts.append(f"layer {self.layer}")
        if self.rows < 1:
            parts.append(f"rows {self.rows:g}")
        if self.noise:
            parts.append(f"noise {self.noise:g}")
        if self.method == "state" and self.precision != "int8":
            parts.append(self.precision)
        return ", ".join(parts)


@dataclass(frozen=True)
class Passage:
    """ids: the tokens of the whole text. questions: templated ones; the first chooses rows where not all are sent."""

    text: str
    ids: tuple[int, ...]
    questions: tuple[tuple[str, str], ...]


@dataclass
class Held:
    """rows: (N, W), in half precision. read: ids of the tokens that were encoded (less than the passage's where rows are chosen).
    sizes: how many of them each row stands for; None where rows stand for no token."""

    passage: Passage
    rows: Tensor
    read: list[int]
    sizes: list[int] | None


def passage_of(setting: Setting, text: str) -> Passage:
    return Passage(text, tuple(setting.prompts.document_ids(text)), tuple(templated_questions(text, ASKED)))


def require_possible(setting: Setting, dial: Dial) -> None:
    """Raises ConfigError where the dial needs a base or a checkpoint that is not there, or turns what its method does not
    have."""
    if dial.method == "state":
        if setting.states is None:
            raise ConfigError(f"state adapters need a prepared base, which {setting.base.id} is not; see `dprag prepare-base`")
        layers = setting.base.model.config.num_hidden_layers
        if dial.layer is not None and not 0 <= dial.layer < layers:
            raise ConfigError(f"layer {dial.layer}: the base has layers 0 to {layers - 1}")
        return
    known = set(setting.compressors) | set(setting.generators) | ({"prag"} if setting.prag else set())
    if dial.method not in known:
        raise ConfigError(f"{dial.method} needs a trained checkpoint: name its folder with --generator")
    if dial.layer is not None or dial.rows < 1:
        raise ConfigError(f"layer and rows are dials of `state` only, not of {dial.method}")
    if dial.noise and dial.method not in COMPRESSED:
        raise ConfigError(f"noise is a dial of state adapters only, not of {dial.method}")


def states_of(setting: Setting, dial: Dial, passage: Passage) -> tuple[StateAdapter, list[int], list[int]]:
    """A passage's state adapter as it is sent, the ids that were encoded, and how many of them each row stands for.

    Raises InputError for a passage without text.
    """
    if dial.method in COMPRESSED:
        compressor = setting.compressors[dial.method]
        ratio = COMPRESSED[dial.method]
        rows = compressor.compress(setting.base, [passage.text], ratio)[0]
        read, layer = list(passage.ids), compressor.settings.layer
        sizes = compressor.group(read, ratio)
    else:
        states = setting.states
        assert states is not None
        text = passage.text
        if dial.rows < 1 and passage.questions:
            text = setting.choice.chosen(passage.questions[0][0], [text], dial.rows)[0]
        layer = states.layer if dial.layer is None else dial.layer
        rows, read = states.states([text], [passage.text], layer).rows, setting.prompts.document_ids(text)
        sizes = [1] * len(read)
    if not read:
        raise InputError("a passage has no text to encode; leave it out")
    adapter = StateAdapter(noisy(rows, dial.noise, passage.text), layer, setting.base.identity)
    return StateAdapter.from_bytes(adapter.to_bytes(dial.precision)), read, sizes


def loras_of(setting: Setting, method: str, passages: Sequence[Passage]) -> LoraBatch:
    """The LoRA of each passage, made by a trained method; PRAG fine-tunes on the passages' templated questions."""
    questions = []
    for one in passages:
        questions.append(Question("?", passages=(one.text,), augmented=(asked_document(one.text, one.questions),)))
    if method == "prag" and setting.prag is not None:
        setting.prag.prepare(document for one in questions for document in one.augmented)
    return adapters_of(setting, method, questions)


def held_by_engine(setting: Setting, dial: Dial, passages: Sequence[Passage]) -> list[Held]:
    """What the engine's operator holds of each passage."""
    if dial.method not in trained_methods():
        made = [states_of(setting, dial, one) for one in passages]
        return [Held(one, adapter.rows.half(), read, sizes) for one, (adapter, read, sizes) in zip(passages, made, strict=True)]
    batch = loras_of(setting, dial.method, passages)
    width = setting.base.model.config.hidden_size
    parts = []
    for a, b in batch.modules.values():  # (B, r, d_in), (B, d_out, r)
        sides = (a, b.mT) if a.shape[2] == width else (b.mT, a)
        parts.append(torch.cat(sides, dim=-1).detach().float().cpu())
    widest = max(part.shape[-1] for part in parts)
    rows = torch.cat([torch.nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=1).half()  # (B, N, W)
    return [Held(one, rows[place].clone(), list(one.ids), None) for place, one in enumerate(passages)]
