"""Trains the sentence scorer of a prepared base (generators/state_scorer.py) to find the sentences that answer a question.

Of a question's sentences those that hold its answer are wanted; where several passages are needed, also those of the others that
name the answer's passage by its title (the first hop). Passages of other contexts join some questions as distractors.

    loss = mean over the kinds of wanted sentences of -log P(one of this kind | all sentences but those of the other kind)

The base only encodes, each passage once, so that the first pass over the data takes most of the time.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM, chosen_device, load_base
from distilledprag.base.prepared import SCORER_FILE
from distilledprag.distillation.contexts import Context, data_hash, load_contexts
from distilledprag.distillation.loop import LoopSettings, fit
from distilledprag.distillation.pair_data import epoch_order
from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically
from distilledprag.generators.kept_states import KeptStates
from distilledprag.generators.sentence_choice import Sentence, choose, cut, features
from distilledprag.generators.state import StateGenerator
from distilledprag.generators.state_scorer import Scored, ScorerSettings, StateScorer, scored_question
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import Dtype

SHARES = (0.25, 0.35, 0.5)  # of rows kept, in evaluation
_NO_LIMIT = 2**50  # bytes
_TITLE_NOTE = re.compile(r"\s*\(.*?\)\s*$")


class ScorerData(Settings):
    """files: of question rows. contexts_per_file: at most, drawn by `seed`. held_out: of them, the most questions to evaluate on.

    Contexts with fewer than `fewest` tokens are left out: they are always sent whole.
    """

    model_config = ConfigDict(extra="forbid")
    files: list[Path] = Field(min_length=1)
    contexts_per_file: int = Field(3000, gt=0)
    batch_size: int = Field(24, gt=0)
    fewest: int = Field(65, gt=0)
    most: int = Field(700, gt=0)
    distractors: float = Field(0.3, ge=0, le=1)
    held_out: int = Field(600, ge=0)
    seed: int = 0


class ScorerRecipe(Settings):
    """`task: scorer`. base: folder of a prepared base; None: the default one."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["scorer"] = "scorer"
    output: Path
    base: str | None = None
    dtype: Dtype = "bfloat16"
    scorer: ScorerSettings = ScorerSettings()
    data: ScorerData
    training: LoopSettings


class EncodedOnce:
    """States of passages and of questions, each made once and kept in `folder`, so that a run that was stopped encodes nothing
    again."""

    def __init__(self, base: BaseLLM, prompts: PromptBuilder, layer: int, folder: Path) -> None:
        self._states = StateGenerator(base, prompts, layer)
        self._states.kept = KeptStates(folder, limit=_NO_LIMIT)

    def rows(self, passages: Sequence[str], layer: int) -> list[Tensor]:
        return self._states.rows(passages, layer)

    def question_rows(self, question: str, layer: int) -> Tensor:
        return self._states.rows([question], layer)[0]


@dataclass(frozen=True)
class Example:
    """wanted: (2, S) bool, the sentences with the answer and those of the first hop."""

    scored: Scored
    wanted: Tensor
    sentences: list[Sentence]
    source: str


class ScorerTask:
    """What the training loop trains."""

    def __init__(self, base: BaseLLM, net: StateScorer, recipe: ScorerRecipe) -> None:
        self.module, self.recipe = net, recipe
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        self.encoded = EncodedOnce(base, self.prompts, net.settings.layer, recipe.output)
        self.count: Callable[[str], int] = self.prompts.document_length
        self.training, held_back = self._split()
        if not self.training:
            raise ConfigError("no context of the data has several sentences of which some hold the answer; name other files")
        words = self._words(random.Random(recipe.training.seed).sample(self.training, min(len(self.training), 2000)))
        net.mean.copy_(words.mean(0))
        net.deviation.copy_(words.std(0).clamp_min(1e-2))  # a feature of few values may be the same everywhere
        self.held_out = [self.example(context, 0) for context in held_back]

    def _split(self) -> tuple[list[Context], list[Context]]:
        """Contexts to train on, and a tenth (by hash) to evaluate on; each with the questions that can be used."""
        data = self.recipe.data
        training: list[Context] = []
        held: list[Context] = []
        for file in data.files:
            contexts = load_contexts(file)
            random.Random(f"contexts/{data.seed}/{file.name}").shuffle(contexts)
            for context in contexts[: data.contexts_per_file]:
                sentences = cut(context.passages, self.count)
                size = sum(sentence.size for sentence in sentences)
                if len(sentences) < 3 or not data.fewest < size < data.most:
                    continue
                usable = tuple(pair for pair in context.questions if 0 < _holding(sentences, pair[1]).sum() < len(sentences))
                if usable:
                    digest = hashlib.sha256("|".join(context.passages).encode()).hexdigest()
                    kept = Context(context.passages, usable, context.source, context.joint)
                    (training if int(digest[:8], 16) % 10 else held).append(kept)
        random.Random(f"held out/{data.seed}").shuffle(held)
        return training, held[: data.held_out]

    def _words(self, contexts: Sequence[Context]) -> Tensor:
        found = [features(context.questions[0][0], cut(context.passages, self.count)) for context in contexts]
        return torch.tensor(np.concatenate(found), dtype=torch.float32)

    def example(self, context: Context, number: int, others: Sequence[str] = ()) -> Example:
        question, answer = context.questions[number % len(context.questions)]
        passages = [*context.passages, *others]
        random.Random(f"order/{question}").shuffle(passages)
        sentences = cut(passages, self.count)
        holding = _holding(sentences, answer)
        first_hop = _naming(sentences, passages, holding) if context.joint else torch.zeros_like(holding)
        scored = scored_question(self.encoded, self.module.settings.layer, question, passages, sentences)
        return Example(scored, torch.stack([holding, first_hop]), sentences, context.source)

    def batch(self, number: int) -> list[Example]:
        size, draw = self.recipe.data.batch_size, random.Random(f"batch/{self.recipe.training.seed}/{number}")
        examples = []
        for place in range(number * size, (number + 1) * size):
            epoch, at = divmod(place, len(self.training))
            context = self.training[epoch_order(len(self.training), self.recipe.training.seed, epoch)[at]]
            others: list[str] = []
            if draw.random() < self.recipe.data.distractors:
                other = draw.choice(self.training).passages[0]
                if other not in context.passages and not any(a.lower() in other.lower() for _, a in context.questions):
                    others = [other]
            examples.append(self.example(context, draw.randrange(1000), others))
        return examples

    def size(self, batch: list[Example]) -> int:
        return len(batch)

    def losses(self, batch: list[Example], module: nn.Module, step: int) -> dict[str, Tensor]:
        scores = module([example.scored for example in batch])
        losses = []
        for row, example in zip(scores, batch, strict=True):
            own = row[: example.wanted.shape[1]]
            kinds = [kind for kind in example.wanted if kind.any()]
            for kind in kinds:
                others = example.wanted.any(0) & ~kind
                losses.append((own[~others].logsumexp(0) - own[kind].logsumexp(0)) / len(kinds))
        return {"loss": torch.stack(losses).sum() / len(batch)}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """How often a sentence with the answer is kept, of all held-out questions and by source, beside words alone."""
        self.module.eval()
        kept: dict[str, list[bool]] = {}
        for example in self.held_out:
            scores = {"kept": self.module([example.scored])[0], "words": example.scored.word_scores}
            for name, found in scores.items():
                for share in SHARES:
                    ok = any(bool(example.wanted[0, index]) for index in choose(found.double().numpy(), example.sentences, share))
                    kept.setdefault(f"{name}/{share}", []).append(ok)
                    if share == 0.35:
                        kept.setdefault(f"{name}/{share}/{example.source}", []).append(ok)
        self.module.train()
        return {name: float(np.mean(found)) for name, found in sorted(kept.items())}


def _holding(sentences: Sequence[Sentence], answer: str) -> Tensor:
    return torch.tensor([answer.lower() in sentence.text.lower() for sentence in sentences])


def _naming(sentences: Sequence[Sentence], passages: Sequence[str], holding: Tensor) -> Tensor:
    """Sentences of other passages that name, by its first line, a passage with the answer."""
    with_answer = {sentence.passage for sentence, holds in zip(sentences, holding.tolist(), strict=True) if holds}
    titles = {number: _TITLE_NOTE.sub("", passages[number].split("\n")[0]).lower() for number in with_answer}
    return torch.tensor([
        sentence.passage not in with_answer and any(title and title in sentence.text.lower() for title in titles.values())
        for sentence in sentences
    ])  # fmt: skip


def train_scorer(recipe: ScorerRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train a scorer as `recipe` says; the result, with what it reached beside it, is `recipe.output/model`."""
    folder = recipe.base or default_base()
    base = load_base(folder, device=chosen_device(), dtype=getattr(torch, recipe.dtype))
    torch.manual_seed(recipe.training.seed)
    net = StateScorer(recipe.scorer.model_copy(update={"state_width": int(base.model.config.hidden_size)}))
    task = ScorerTask(base, net, recipe)

    def export(target: Path) -> None:
        net.save(target)
        record = {
            "data": [file.name for file in recipe.data.files],
            "data_hash": data_hash(recipe.data.files),
            "base": base.identity.to_dict(),
            "training_contexts": len(task.training),
            "held_out_questions": len(task.held_out),
            "recipe": recipe.model_dump(mode="json", exclude={"output", "base"}),
            "answer_kept": task.evaluate(0),
        }
        write_atomically((target / SCORER_FILE).with_suffix(".json"), json.dumps(record, indent=1) + "\n")

    return fit(
        task, recipe.training, recipe.output, resume=resume, recipe=recipe.model_dump(mode="json"), export=export, quiet=quiet
    )
