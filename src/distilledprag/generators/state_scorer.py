"""The sentence scorer of a prepared base: which sentences a question needs, read from hidden states.

    passages' states after layer L, question's states after layer L  ->  a small transformer  ->  one score for each sentence

    B = questions of a batch   T = tokens of a question and its passages   D = hidden size of the base   S = sentences

The states are those that state adapters are made of, so the passages' are in the cache already and a question costs one pass of
its own few tokens. Unlike shared words they tell that "who paid" is answered by "the bill was settled by". Scores add to those
of `sentence_choice.WordScorer`, which is all that other bases have. Trained by `distillation/scorer_training.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.utils.rnn import pad_sequence

from distilledprag.base.prepared import SCORER_FILE, part_of
from distilledprag.errors import CheckpointError
from distilledprag.files import write_atomically
from distilledprag.generators.sentence_choice import FEATURES, Sentence, SentenceChoice, WordScorer, features
from distilledprag.generators.state import StateGenerator
from distilledprag.lora.identity import tensors_hash
from distilledprag.prompts import PromptBuilder

_NOTHING = -1e4  # score of what is no sentence
_KEY = "distilledprag_sentence_scorer"


class ScorerSettings(Settings):
    """layer: whose states are read. width, layers, heads: of the small transformer. state_width: D."""

    model_config = ConfigDict(extra="forbid")
    layer: int = Field(8, ge=0)
    state_width: int = Field(576, gt=0)
    width: int = Field(192, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    word_width: int = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Scored:
    """A question to be scored. question: (m, D) states. passages: (n, D), of all passages one after the other. owner: (n,), the
    sentence that each of these tokens belongs to. words: (S, FEATURES); word_scores: (S,)."""

    question: Tensor
    passages: Tensor
    owner: Tensor
    words: Tensor
    word_scores: Tensor


class StateScorer(nn.Module):
    """Scores (B, S) of batches of `Scored`; those behind a question's last sentence are very low."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: ScorerSettings) -> None:
        super().__init__()
        self.settings = settings
        width, words = settings.width, settings.word_width
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.states = nn.Linear(settings.state_width, width)
        self.kind = nn.Embedding(2, width)  # passage, question
        self.words = nn.Linear(FEATURES, words)
        self.words_in = nn.Linear(words, width)
        self.words_out = nn.Linear(words, 1)
        self.word_score = nn.Parameter(torch.ones(1))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 2 * width, settings.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.best = nn.Linear(width, 1)
        self.average = nn.Linear(width, 1)

    def forward(self, batch: Sequence[Scored]) -> Tensor:
        states = pad_sequence([_normalised(torch.cat([one.question, one.passages])) for one in batch], batch_first=True)
        none = [torch.full((len(one.question),), -1, device=states.device) for one in batch]
        owner = pad_sequence([torch.cat(pair) for pair in zip(none, (one.owner for one in batch), strict=True)], True, -1)
        length = torch.tensor([len(one.question) + len(one.passages) for one in batch], device=states.device)
        sentences = torch.tensor([len(one.words) for one in batch], device=states.device)
        words = gelu(self.words((pad_sequence([one.words for one in batch], True) - self.mean) / self.deviation))
        word_scores = pad_sequence([one.word_scores for one in batch], True)

        total, count = states.shape[1], words.shape[1]
        of_sentence, place = owner >= 0, owner.clamp_min(0)
        hidden = self.states(states) + self.kind((~of_sentence).long()) + 0.3 * _positions(total, self.settings.width, states)
        from_words = self.words_in(words).gather(1, place[..., None].expand(-1, -1, self.settings.width))
        hidden = hidden + from_words * of_sentence[..., None]
        padding = torch.arange(total, device=states.device) >= length[:, None]
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        hidden = self.norm(hidden)

        empty = hidden.new_zeros(len(batch), count)
        tokens = self.best(hidden)[..., 0].masked_fill(~of_sentence, _NOTHING)
        best = (empty + _NOTHING).scatter_reduce(1, place, tokens, "amax")
        sums = empty.scatter_add(1, place, self.average(hidden)[..., 0] * of_sentence)
        average = sums / empty.scatter_add(1, place, of_sentence.to(hidden.dtype)).clamp_min(1)
        scores: Tensor = best + average + self.words_out(words)[..., 0] + self.word_score * word_scores
        return scores.masked_fill(torch.arange(count, device=states.device) >= sentences[:, None], _NOTHING)

    @property
    def identity(self) -> str:
        """A short hash of the weights as half precision."""
        return f"sentence-scorer-{tensors_hash(self.state_dict())[:12]}"

    def save(self, folder: Path) -> None:
        """Write `SCORER_FILE` into an existing folder, in half precision."""
        tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / SCORER_FILE, save(tensors, metadata={_KEY: self.settings.model_dump_json()}))


def base_scorer(folder: str | Path) -> StateScorer | None:
    """The scorer of a prepared base or encoder, if it has one. Errors as in `load_scorer`."""
    return load_scorer(part_of(folder, SCORER_FILE))


def load_scorer(file: Path) -> StateScorer | None:
    """What `StateScorer.save` wrote, None where there is no such file. Raises CheckpointError for a damaged one."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            net = StateScorer(ScorerSettings(**json.loads(opened.metadata()[_KEY])))
            net.load_state_dict({name: opened.get_tensor(name).float() for name in opened.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise CheckpointError(f"{file} is damaged; prepare the base again, or copy the scorer again") from error
    return net.eval().requires_grad_(False)


class Encodes(Protocol):
    """What encodes passages."""

    def rows(self, passages: Sequence[str], layer: int) -> list[Tensor]:
        """States (n, D) of each passage's tokens after `layer`."""

    def question_rows(self, question: str, layer: int) -> Tensor:
        """The same of a question, which is not kept anywhere."""


def sentence_choice(prompts: PromptBuilder, states: StateGenerator | None, net: StateScorer | None) -> SentenceChoice:
    """The choice of sentences with the base's own scorer, where it has one."""
    scorer = SentenceScorer(states, net) if states is not None and net is not None else None
    return SentenceChoice(prompts.document_length, scorer)


class SentenceScorer:
    """Scores sentences with the states that `states` makes."""

    def __init__(self, states: StateGenerator, net: StateScorer) -> None:
        self._states, self._net = states, net

    @torch.inference_mode()
    def scores(self, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> NDArray[np.float64]:
        """(sentences,), higher for sentences that the question seems to need."""
        scored = scored_question(self._states, self._net.settings.layer, question, passages, sentences)
        return np.asarray(self._net([scored])[0].double().numpy())


def scored_question(states: Encodes, layer: int, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> Scored:
    """What the scorer reads of a question and the sentences of its passages, in their order; on the CPU, in float32."""
    read = [text for text in passages if text.strip()]
    rows, asked = iter(states.rows(read, layer)), states.question_rows(question, layer)
    owner: list[Tensor] = []
    parts: list[Tensor] = []
    for number, text in enumerate(passages):
        if not text.strip():
            continue
        tokens = next(rows)
        own = [index for index, sentence in enumerate(sentences) if sentence.passage == number]
        # Sentences are tokenized one by one, so their sizes can add up to a few tokens more or less than the passage has.
        places = [index for index in own for _ in range(sentences[index].size)][: len(tokens)]
        owner.append(torch.tensor(places + own[-1:] * (len(tokens) - len(places))))
        parts.append(tokens)
    words = features(question, sentences)
    return Scored(
        asked.float().cpu(),
        torch.cat(parts).float().cpu(),
        torch.cat(owner),
        torch.tensor(words, dtype=torch.float32),
        torch.tensor(WordScorer.default().of(words), dtype=torch.float32),
    )


def _normalised(states: Tensor) -> Tensor:
    """Rows of a root mean square of 1."""
    return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _positions(count: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines (count, width) of tokens' places."""
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(count, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)
