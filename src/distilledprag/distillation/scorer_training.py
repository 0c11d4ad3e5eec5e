"""Trains the sentence scorer of a prepared base (generators/cross_encoder.py) to find the sentences that answer a question.

Of a question's sentences those that hold its answer are wanted; where several passages are needed, also those of the others that
name the answer's passage by its title (the first hop). Passages of other contexts join some questions as distractors.

    loss = mean over the kinds of wanted sentences of -log P(one of this kind | all sentences but those of the other kind)

Questions are read in batches of like length.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM, chosen_device, load_base
from distilledprag.base.prepared import SCORER_FILE
from distilledprag.distillation.contexts import Context, data_hash, load_contexts
from distilledprag.distillation.loop import LoopSettings, fit
from distilledprag.distillation.pair_data import epoch_order
from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically
from distilledprag.generators.cross_encoder import CrossEncoder, CrossEncoderSettings, Reading, readings
from distilledprag.generators.sentence_choice import SHARES, Certainty, Sentence, WordScorer, calibrated, choose, cut
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import Dtype

_SORTED = 16  # batches whose questions are sorted by length together
_TITLE_NOTE = re.compile(r"\s*\(.*?\)\s*$")


class ScorerData(Settings):
    """files: of question rows. contexts_per_file: at most, drawn by `seed`; None: all. held_out: the most questions, of a tenth
    of the contexts, to evaluate on. distractors: share of questions that get passages of other contexts.

    Contexts with at most `fewest` tokens are left out (they are sent whole), and those with more than `most`.
    """

    model_config = ConfigDict(extra="forbid")
    files: list[Path] = Field(min_length=1)
    contexts_per_file: int | None = Field(None, gt=0)
    batch_size: int = Field(24, gt=0)
    fewest: int = Field(65, gt=0)
    most: int = Field(640, gt=0)
    distractors: float = Field(0.4, ge=0, le=1)
    held_out: int = Field(600, ge=0)
    seed: int = 0


class ScorerRecipe(Settings):
    """`task: scorer`. base: folder of a prepared base; None: the default one."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["scorer"] = "scorer"
    output: Path
    base: str | None = None
    dtype: Dtype = "bfloat16"
    scorer: CrossEncoderSettings = CrossEncoderSettings()
    data: ScorerData
    training: LoopSettings

    @model_validator(mode="after")
    def read_at_a_time(self) -> ScorerRecipe:
        if self.data.most > self.scorer.longest:
            raise ValueError(
                f"data.most {self.data.most}: a context is read at once, so at most {self.scorer.longest} (scorer.longest)"
            )
        return self


@dataclass(frozen=True)
class Asked:
    """A question with what it is asked about. joint: several of the passages are needed."""

    question: str
    answer: str
    passages: tuple[str, ...]
    source: str
    joint: bool


@dataclass(frozen=True)
class Example:
    """wanted: (2, S) bool, the sentences with the answer and those of the first hop. sizes: (S,) tokens."""

    reading: Reading
    wanted: NDArray[np.bool_]
    sizes: NDArray[np.int32]
    source: str


class Examples(Dataset[Example]):
    """Questions with their passages in a random order, and distractors that hold no answer, as long as all can be read at a
    time."""

    def __init__(self, asked: Sequence[Asked], others: Sequence[str], prompts: PromptBuilder, data: ScorerData) -> None:
        """others: passages that distractors are drawn from."""
        self._asked, self._others, self._prompts, self._data = asked, others, prompts, data

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, number: int) -> Example:
        if number >= len(self):
            raise IndexError(number)
        one = self._asked[number]
        draw = random.Random(f"example/{self._data.seed}/{one.question}/{number}")
        passages = list(one.passages)
        if self._others and draw.random() < self._data.distractors:
            for other in draw.choices(self._others, k=draw.randint(1, 2)):
                fits = sum(map(self._prompts.document_length, [*passages, other])) <= self._data.most
                if fits and other not in passages and one.answer.lower() not in other.lower():
                    passages.append(other)
        draw.shuffle(passages)
        sentences = cut(passages, self._prompts.document_length)
        holding = _holding(sentences, one.answer)
        first_hop = _naming(sentences, passages, holding) if one.joint else np.zeros_like(holding)
        by_words = WordScorer.default().scores(one.question, passages, sentences)
        (reading,) = readings(self._prompts, one.question, sentences, by_words, 2**30)
        return Example(
            reading, np.stack([holding, first_hop]), np.array([part.size for part in sentences], dtype=np.int32), one.source
        )

    def all(self) -> list[Example]:
        """Made by a few processes where there are many cores."""
        workers = min(12, max(0, (os.cpu_count() or 1) - 2))
        return list(DataLoader(self, batch_size=None, num_workers=workers, collate_fn=_as_it_is))


def _as_it_is(example: Any) -> Any:
    return example


class ScorerTask:
    """What the training loop trains."""

    def __init__(self, base: BaseLLM, net: CrossEncoder, recipe: ScorerRecipe) -> None:
        self.base, self.module, self.recipe = base, net, recipe
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        training, held_back = self._split()
        if not training:
            raise ConfigError("no context of the data has several sentences of which some hold the answer; name other files")
        others = sorted({passage for one in training if not one.joint for passage in one.passages})
        self.training = Examples(training, others, self.prompts, recipe.data).all()
        self.held_out = Examples(held_back, [], self.prompts, recipe.data).all()
        self._order: Callable[[int], list[list[int]]] = lru_cache(maxsize=2)(self._batches_of)

    def _split(self) -> tuple[list[Asked], list[Asked]]:
        """Questions to train on, and those of a tenth of the contexts (by hash) to evaluate on, one of each context."""
        data, count = self.recipe.data, self.prompts.document_length
        training: list[Asked] = []
        held: list[Asked] = []
        for file in data.files:
            contexts = load_contexts(file)
            random.Random(f"contexts/{data.seed}/{file.name}").shuffle(contexts)
            for context in contexts[: data.contexts_per_file]:
                sentences = cut(context.passages, count)
                if len(sentences) < 3 or not data.fewest < sum(sentence.size for sentence in sentences) <= data.most:
                    continue
                usable = [pair for pair in context.questions if 0 < _holding(sentences, pair[1]).sum() < len(sentences)]
                asked = [self._asked(pair, context) for pair in usable]
                digest = hashlib.sha256("|".join(context.passages).encode()).hexdigest()
                if int(digest[:8], 16) % 10:
                    training += asked
                else:
                    held += asked[:1]
        random.Random(f"held out/{data.seed}").shuffle(held)
        return training, held[: data.held_out]

    @staticmethod
    def _asked(pair: tuple[str, str], context: Context) -> Asked:
        return Asked(pair[0], pair[1], context.passages, context.source, context.joint)

    def _batches_of(self, epoch: int) -> list[list[int]]:
        """Places of the training examples, batch by batch; what does not fill a batch waits for the next epoch."""
        size, seed = self.recipe.data.batch_size, self.recipe.training.seed
        order = epoch_order(len(self.training), seed, epoch)
        batches: list[list[int]] = []
        for begin in range(0, len(order), _SORTED * size):
            run = sorted(order[begin : begin + _SORTED * size], key=lambda place: len(self.training[place].reading.ids))
            batches += [run[at : at + size] for at in range(0, len(run), size)]
        full = [batch for batch in batches if len(batch) == size] or batches
        random.Random(f"batches/{seed}/{epoch}").shuffle(full)
        return full

    def batch(self, number: int) -> list[Example]:
        epoch, place = divmod(number, len(self._order(0)))
        return [self.training[index] for index in self._order(epoch)[place]]

    def size(self, batch: list[Example]) -> int:
        return len(batch)

    def losses(self, batch: list[Example], module: nn.Module, step: int) -> dict[str, Tensor]:
        scores: Tensor = module(self.base, [example.reading for example in batch])
        wanted = torch.zeros(2, *scores.shape, dtype=torch.bool)
        for row, example in enumerate(batch):
            wanted[:, row, : example.wanted.shape[1]] = torch.from_numpy(example.wanted)
        wanted = wanted.to(scores.device)
        used = wanted.any(-1)  # (2, B): the kinds that a question has
        lowest = torch.finfo(scores.dtype).min
        kinds = []
        for kind, other in ((wanted[0], wanted[1]), (wanted[1], wanted[0])):
            among = scores.masked_fill(other & ~kind, lowest).logsumexp(-1)
            kinds.append(among - scores.masked_fill(~kind, lowest).logsumexp(-1))
        losses = torch.where(used, torch.stack(kinds), 0.0).sum(0) / used.sum(0)
        return {"loss": losses.mean()}

    @torch.no_grad()
    def held_out_scores(self) -> list[NDArray[np.float64]]:
        """Of each held-out question, its sentences' scores."""
        self.module.eval()
        scores: list[NDArray[np.float64]] = []
        for begin in range(0, len(self.held_out), self.recipe.data.batch_size):
            batch = self.held_out[begin : begin + self.recipe.data.batch_size]
            found = self.module(self.base, [example.reading for example in batch]).double().cpu().numpy()
            scores += [row[: len(example.sizes)] for example, row in zip(batch, found, strict=True)]
        self.module.train()
        return scores

    def certainty(self, scores: Sequence[NDArray[np.float64]]) -> list[tuple[float, float]]:
        """What the sums of probabilities must be for shares of the rows (`calibrated`). scores: of the held-out questions."""
        return calibrated([(found, example.sizes.tolist()) for found, example in zip(scores, self.held_out, strict=True)])

    def evaluate(self, step: int) -> dict[str, float]:
        """What `kept` says of the scores now."""
        scores = self.held_out_scores()
        return self.kept(scores, self.certainty(scores))

    def kept(self, scores: Sequence[NDArray[np.float64]], certainty: Certainty) -> dict[str, float]:
        """How often a sentence with the answer is kept, of all held-out questions and by source, beside words alone; how often
        every kind of wanted sentence is (`all_kept`); and the share of the rows that is kept (`rows`). scores: of the held-out
        questions."""
        ways: dict[str, tuple[Certainty, Sequence[NDArray[np.float64]]]] = {
            "kept": (certainty, scores),
            "words": (WordScorer.default().certainty, [example.reading.word_scores.astype(float) for example in self.held_out]),
        }
        seen: dict[str, list[float]] = {}
        for name, (sure, rows) in ways.items():
            for example, row in zip(self.held_out, rows, strict=True):
                parts = [Sentence(0, number, "", int(size)) for number, size in enumerate(example.sizes)]
                for share in SHARES:
                    chosen = list(choose(row, parts, share, sure))
                    kept = bool(example.wanted[0, chosen].any())
                    seen.setdefault(f"{name}/{share}", []).append(kept)
                    seen.setdefault(f"all_{name}/{share}", []).append(all(k[chosen].any() for k in example.wanted if k.any()))
                    seen.setdefault(f"rows_{name}/{share}", []).append(example.sizes[chosen].sum() / example.sizes.sum())
                    if share == 0.35:
                        seen.setdefault(f"{name}/{share}/{example.source}", []).append(kept)
        return {name: float(np.mean(found)) for name, found in sorted(seen.items())}


def _holding(sentences: Sequence[Sentence], answer: str) -> NDArray[np.bool_]:
    return np.array([answer.lower() in sentence.text.lower() for sentence in sentences], dtype=bool)


def _naming(sentences: Sequence[Sentence], passages: Sequence[str], holding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sentences of other passages that name, by its first line, a passage with the answer."""
    with_answer = {sentence.passage for sentence, holds in zip(sentences, holding, strict=True) if holds}
    titles = {number: _TITLE_NOTE.sub("", passages[number].split("\n")[0]).lower() for number in with_answer}
    return np.array([
        sentence.passage not in with_answer and any(title and title in sentence.text.lower() for title in titles.values())
        for sentence in sentences
    ], dtype=bool)  # fmt: skip


def train_scorer(recipe: ScorerRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train a scorer as `recipe` says; the result, with what it reached beside it, is `recipe.output/model`."""
    folder = recipe.base or default_base()
    base = load_base(folder, device=chosen_device(), dtype=getattr(torch, recipe.dtype))
    torch.manual_seed(recipe.training.seed)
    net = CrossEncoder(recipe.scorer, base.model.config).to(base.device)
    task = ScorerTask(base, net, recipe)

    def export(target: Path) -> None:
        scores = task.held_out_scores()
        certainty = task.certainty(scores)
        net.settings = net.settings.model_copy(update={"certainty": certainty})
        net.save(target)
        record = {
            "data": [file.name for file in recipe.data.files],
            "data_hash": data_hash(recipe.data.files),
            "base": base.identity.to_dict(),
            "training_questions": len(task.training),
            "held_out_questions": len(task.held_out),
            "recipe": recipe.model_dump(mode="json", exclude={"output": True, "base": True, "data": {"files"}}),
            "answer_kept": task.kept(scores, certainty),
        }
        write_atomically((target / SCORER_FILE).with_suffix(".json"), json.dumps(record, indent=1) + "\n")

    return fit(
        task, recipe.training, recipe.output, resume=resume, recipe=recipe.model_dump(mode="json"), export=export, quiet=quiet
    )
