"""The sentence scorer of a prepared base: a cross-encoder, made of the trusted side's layers, that finds what a question needs.

    prompt of plain RAG --layers 0..L, with a small LoRA, every token sees every other--> states --> one score for each sentence

    B = readings of a batch   T = tokens of a reading   D = hidden size of the base   S = sentences of a reading

It reads question and passages together, so that it can tell that "who paid" is answered by "the bill was settled by", and which
sentence of another passage says who "he" is. Scores add to those of `sentence_choice.WordScorer`, which is all that a base
without a cross-encoder has. A question costs one pass of its passages through the encoder. Trained by
`distillation/scorer_training.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from distilledprag.base.architecture import (
    ATTENTION_TARGETS,
    MLP_TARGETS,
    copied_layers,
    hidden_after,
    module_shapes,
    split_module_key,
)
from distilledprag.base.llm import BaseLLM
from distilledprag.base.prepared import SCORER_FILE, part_of
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import write_atomically
from distilledprag.generators.sentence_choice import Certainty, Sentence, SentenceChoice, WordScorer
from distilledprag.lora.identity import tensors_hash
from distilledprag.lora.injection import inject, merge_into
from distilledprag.lora.weights import SharedLora
from distilledprag.prompts import PromptBuilder

_NOTHING = -1e4  # score of what is no sentence
_KEY = "distilledprag_sentence_scorer"
_BATCH = 8  # readings at a time, where passages are long


class CrossEncoderSettings(Settings):
    """layer: whose states are scored. rank: of the LoRA on layers 0 to `layer`. longest: tokens of passages that are read at a
    time; of longer ones, consecutive sentences are read together, as many as fit. certainty: of a trained one, by its held-out
    questions (`calibrated`)."""

    model_config = ConfigDict(extra="forbid")
    layer: int = Field(8, ge=0)
    rank: int = Field(16, gt=0)
    longest: int = Field(768, gt=0)
    certainty: list[tuple[float, float]] = []


@dataclass(frozen=True)
class Reading:
    """A question with sentences that are read together. ids (T,): their prompt. owners (T,): the sentence that each token belongs
    to, from 0; -1: none. word_scores (S,)."""

    ids: NDArray[np.int32]
    owners: NDArray[np.int32]
    word_scores: NDArray[np.float32]


def readings(
    prompts: PromptBuilder, question: str, sentences: Sequence[Sentence], word_scores: NDArray[np.float64], longest: int
) -> Iterator[Reading]:
    """All sentences in their order, in as few readings as hold them. Of a sentence of more than `longest` tokens the beginning is
    read, of such a question the end.

    Raises InputError for an unusable question.
    """
    asked = prompts.question(question)[-longest:]
    begin = 0
    while begin < len(sentences):
        end, tokens = begin + 1, sentences[begin].size
        while end < len(sentences) and tokens + sentences[end].size <= longest:
            tokens += sentences[end].size
            end += 1
        yield _reading(prompts, asked, sentences[begin:end], word_scores[begin:end], longest)
        begin = end


def _reading(
    prompts: PromptBuilder, asked: list[int], sentences: Sequence[Sentence], scores: NDArray[np.float64], longest: int
) -> Reading:
    tokens = [prompts.document_ids(sentence.text)[:longest] for sentence in sentences]
    passages = groupby(range(len(sentences)), key=lambda number: sentences[number].passage)
    masked = prompts.masked_context([sum(len(tokens[number]) for number in own) for _, own in passages])
    ids = np.array([*masked, *asked], dtype=np.int32)
    owners = np.full(len(ids), -1, dtype=np.int32)
    places = np.flatnonzero(ids == prompts.mask_token_id)
    ids[places] = [index for own in tokens for index in own]
    owners[places] = [number for number, own in enumerate(tokens) for _ in own]
    return Reading(ids, owners, scores.astype(np.float32))


class CrossEncoder(nn.Module):
    """Scores (B, S) of batches of readings; those behind a reading's last sentence are very low."""

    def __init__(self, settings: CrossEncoderSettings, config: Any) -> None:
        """config: the base's. Raises ConfigError for a layer that it does not have."""
        super().__init__()
        if settings.layer >= config.num_hidden_layers:
            raise ConfigError(
                f"layer {settings.layer} of the sentence scorer: there are layers 0 to {config.num_hidden_layers - 1}"
            )
        self.settings = settings
        shapes = module_shapes(config, (*ATTENTION_TARGETS, *MLP_TARGETS))
        self.lora = SharedLora({k: s for k, s in shapes.items() if split_module_key(k)[0] <= settings.layer}, settings.rank)
        self.best = nn.Linear(int(config.hidden_size), 1)
        self.average = nn.Linear(int(config.hidden_size), 1)
        self.word_score = nn.Parameter(torch.ones(1))

    def forward(self, base: BaseLLM, batch: Sequence[Reading]) -> Tensor:
        """base: without the LoRA; it is added for this pass."""
        with inject(base.model, self.lora.batch()):
            return self.scores(base.model, batch)

    def scores(self, model: nn.Module, batch: Sequence[Reading]) -> Tensor:
        """The same with a model that has the LoRA already."""
        device = self.word_score.device
        ids = _padded([one.ids for one in batch], 0).to(device).long()
        owners = _padded([one.owners for one in batch], -1).to(device).long()
        words = _padded([one.word_scores for one in batch], 0).to(device)
        lengths = torch.tensor([len(one.ids) for one in batch], device=device)
        sentences = torch.tensor([len(one.word_scores) for one in batch], device=device)
        hidden = self._states(model, ids, lengths)

        of_sentence, place = owners >= 0, owners.clamp_min(0)
        empty = torch.zeros_like(words)
        tokens = self.best(hidden)[..., 0].masked_fill(~of_sentence, _NOTHING)
        best = (empty + _NOTHING).scatter_reduce(1, place, tokens, "amax")
        sums = empty.scatter_add(1, place, self.average(hidden)[..., 0] * of_sentence)
        average = sums / empty.scatter_add(1, place, of_sentence.to(hidden.dtype)).clamp_min(1)
        scores: Tensor = best + average + self.word_score * words
        behind = torch.arange(words.shape[1], device=device) >= sentences[:, None]
        return scores.masked_fill(behind, _NOTHING)

    def _states(self, model: nn.Module, ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) float32 of a root mean square of 1. Every token sees all of its row."""
        rows, longest = ids.shape
        real = torch.arange(longest, device=ids.device) < lengths[:, None]
        dtype = next(model.parameters()).dtype
        unseen = torch.zeros(rows, longest, dtype=dtype, device=ids.device).masked_fill_(~real, torch.finfo(dtype).min)
        attention = unseen[:, None, None, :].expand(rows, 1, longest, longest).contiguous()
        layer = self.settings.layer
        hidden = hidden_after(model, [layer], input_ids=ids, attention_mask=attention)[layer].float()
        return hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    @property
    def identity(self) -> str:
        """A short hash of the weights as half precision."""
        return f"sentence-scorer-{tensors_hash(self.state_dict())[:12]}"

    def save(self, folder: Path) -> None:
        """Write `SCORER_FILE` into an existing folder, in half precision."""
        tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / SCORER_FILE, save(tensors, metadata={_KEY: self.settings.model_dump_json()}))


def _padded(rows: Sequence[NDArray[Any]], filler: int) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=filler)


def base_scorer(folder: str | Path, base: BaseLLM) -> CrossEncoder | None:
    """The cross-encoder of a prepared base or encoder, None where it has none. base: what the folder holds, loaded.

    Raises CheckpointError for a damaged one, for one of a base of another size, and for one that reads a layer that `base` lacks.
    """
    file = part_of(folder, SCORER_FILE)
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            net = CrossEncoder(CrossEncoderSettings(**json.loads(opened.metadata()[_KEY])), base.model.config)
            net.load_state_dict({name: opened.get_tensor(name).float() for name in opened.keys()})  # noqa: SIM118
    except ConfigError as error:
        raise CheckpointError(f"{file} does not fit: {error}; train one that reads a layer of the encoder") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise CheckpointError(f"{file} is damaged; prepare the base again, or copy the scorer again") from error
    return net.to(base.device).eval().requires_grad_(False)


def sentence_choice(prompts: PromptBuilder, base: BaseLLM, net: CrossEncoder | None) -> SentenceChoice:
    """The choice of sentences with the base's cross-encoder, where it has one. base: with the layers that `net` reads."""
    return SentenceChoice(prompts.document_length, None if net is None else SentenceScorer(prompts, base, net))


class SentenceScorer:
    """Scores sentences with a copy of the base's lower layers, into which the cross-encoder's LoRA is merged.

    Threads take turns."""

    def __init__(self, prompts: PromptBuilder, base: BaseLLM, net: CrossEncoder) -> None:
        self._prompts, self._base, self._net = prompts, base, net
        self._turn = threading.Lock()

    @property
    def certainty(self) -> Certainty:
        return self._net.settings.certainty

    @cached_property
    def _model(self) -> Any:
        """Made when sentences are first scored: most questions need all rows."""
        model = copied_layers(self._base.model, self._net.settings.layer + 1)
        (merged,) = self._net.lora.batch().unstack(self._base.identity, "sentence scorer")
        merge_into(model, merged)
        return model

    @torch.inference_mode()
    def scores(self, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> NDArray[np.float64]:
        """(sentences,), higher for sentences that the question seems to need."""
        by_words = WordScorer.default().scores(question, passages, sentences)
        found = list(readings(self._prompts, question, sentences, by_words, self._net.settings.longest))
        scores: list[float] = []
        for begin in range(0, len(found), _BATCH):
            batch = found[begin : begin + _BATCH]
            with self._turn:
                made = self._net.scores(self._model, batch)
            for row, one in zip(made, batch, strict=True):
                scores += row[: len(one.word_scores)].tolist()
        return np.array(scores)
