"""Distillation: the generator learns to make the masked prompt work like the plaintext one.

The teacher is the frozen base LLM on the open prompt; the student is the same LLM with the generated LoRA on the masked
prompt. B = rows, T = tokens, D = model dimension, M = layers, P = compared positions, N = supervised positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM, load_base
from distilledprag.distillation.loop import LoopSettings, fit
from distilledprag.distillation.losses import cosine_loss, generation_loss, kl_loss, top_k_kl_loss
from distilledprag.distillation.pair_data import PairData, PairDataSettings
from distilledprag.distillation.question_packing import PackedBatch, TrainingRow, collate, exact_rows
from distilledprag.distillation.teacher_cache import CacheSettings, TeacherCache, batch_of, records_of
from distilledprag.generators.interface import (
    DocumentStates,
    ParameterGenerator,
    build_generator,
    load_generator,
    mask_embedded_as,
    mask_row_of,
)
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject
from distilledprag.prompts import PromptBuilder

CosinePositions = Literal["outside_documents", "question_and_answer", "answer", "all"]


class LossSettings(Settings):
    """Weights and details of the losses; the defaults are the paper's, except that the cosine leaves out the document
    positions, where the student sees only masks (`cosine_positions: all` is the released code)."""

    model_config = ConfigDict(extra="forbid")
    cosine_weight: float = Field(0.5, ge=0)
    kl_weight: float = Field(0.1, ge=0)
    temperature: float = Field(2.0, gt=0)
    cosine_positions: CosinePositions = "outside_documents"


class PairSource(PairDataSettings):
    """Train on synthesized question-answer pairs."""

    source: Literal["pairs"] = "pairs"


class DistillRecipe(Settings):
    """A `dprag train` recipe. `base`: folder or hub id of a base with a mask token; None: the default one.

    `start_from`: a generator checkpoint to go on from; `teacher_cache`: keep the teacher's outputs on disk, for data that
    is seen more than once.
    """

    model_config = ConfigDict(extra="forbid")
    task: Literal["distill"] = "distill"
    output: Path
    base: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    generator: dict[str, Any]
    start_from: str | None = None
    data: PairSource
    losses: LossSettings = LossSettings()
    teacher_cache: CacheSettings | None = None
    training: LoopSettings


@dataclass
class Batch:
    """Packed tokens and, row by row, the passages they were made from."""

    tokens: PackedBatch
    passages: list[tuple[str, ...]]


@dataclass
class Outputs:
    """`layers`: M tensors (P, D) at the compared positions; `logits`: (N, vocabulary) at the supervised ones. From a cache
    comes `likeliest` instead of logits: tokens and their log-probabilities at the recipe's temperature, (N, k) each."""

    layers: list[Tensor]
    logits: Tensor
    likeliest: tuple[Tensor, Tensor] | None = None


def compared_positions(batch: PackedBatch, where: CosinePositions) -> Tensor:
    """(B, T) bool: where the cosine loss compares student and teacher. Padding is never compared."""
    if where == "answer":
        return batch.is_supervised
    if where == "question_and_answer":
        return batch.is_question
    return batch.is_token & ~batch.is_document if where == "outside_documents" else batch.is_token


class DistillTask:
    """What the training loop trains: `module` is the generator; the base stays frozen."""

    def __init__(self, base: BaseLLM, generator: ParameterGenerator, recipe: DistillRecipe) -> None:
        self.base = base
        self.module = generator
        self.recipe = recipe
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        self.pad_id = base.tokenizer.pad_token_id or base.tokenizer.eos_token_id or 0
        self.cache: TeacherCache | None = None
        if recipe.teacher_cache:
            what = (base.identity, generator.encoder_fingerprint, recipe.losses.cosine_positions, recipe.losses.temperature)
            self.cache = TeacherCache(recipe.teacher_cache, *what)
        self.data = PairData(self.prompts, recipe.data)
        self.validation: dict[str, list[TrainingRow]] = self.data.validation_rows()

    def collate(self, rows: Sequence[TrainingRow]) -> Batch:
        tokens = collate([row.packed for row in rows], self.pad_id).to(self.base.device)
        return Batch(tokens, [row.passages for row in rows])

    def batch(self, number: int) -> Batch:
        return self.collate(self.data.rows(number))

    def size(self, batch: Batch) -> int:
        return len(batch.passages)

    def losses(self, batch: Batch, module: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its parts `loss_gen`, `loss_cos`, `loss_kl` (unweighted)."""
        settings = self.recipe.losses
        teacher, documents = self.read(batch) if self.cache is None else self._read_through(batch, self.cache)
        student = self.answer(batch, module(documents))
        parts = {"loss_gen": generation_loss(student.logits, batch.tokens.targets[batch.tokens.is_supervised])}
        parts["loss_cos"] = cosine_loss(student.layers, teacher.layers)
        if teacher.likeliest:
            parts["loss_kl"] = top_k_kl_loss(student.logits, *teacher.likeliest, settings.temperature)
        else:
            parts["loss_kl"] = kl_loss(student.logits, teacher.logits, settings.temperature)
        weighted = settings.cosine_weight * parts["loss_cos"] + settings.kl_weight * parts["loss_kl"]
        return {"loss": parts["loss_gen"] + weighted, **parts}

    @torch.no_grad()
    def read(self, batch: Batch) -> tuple[Outputs, DocumentStates]:
        """Teacher outputs, and the document states for the generator (from the same forward pass where it can be)."""
        states = self.run(batch, batch.tokens.open_ids)
        if not self.module.reads_base:
            return self._outputs(batch, states), self.module.encode(self.base, batch.passages)
        length = int(batch.tokens.is_document.any(dim=0).nonzero().max()) + 1
        documents = DocumentStates(torch.stack([s[:, :length] for s in states]), batch.tokens.is_document[:, :length])
        return self._outputs(batch, states), documents

    def _read_through(self, batch: Batch, cache: TeacherCache) -> tuple[Outputs, DocumentStates]:
        """As `read`, from the cache; what is not there yet is computed and added. Both ways give the same numbers."""
        tokens = batch.tokens
        compared = compared_positions(tokens, self.recipe.losses.cosine_positions)
        rows = zip(tokens.open_ids, tokens.segments, tokens.targets, tokens.is_token, strict=True)
        keys = [cache.key([part[real].tolist() for part in (ids, parts, aims)]) for ids, parts, aims, real in rows]
        records = cache.load(keys)
        if records is None:
            teacher, documents = self.read(batch)
            size, temperature = cache.settings.top_k, self.recipe.losses.temperature
            where = (compared, tokens.is_supervised)
            records = records_of(teacher.layers, teacher.logits, documents, *where, top_k=size, temperature=temperature)
            cache.store(keys, records)
        layers, likeliest, documents = batch_of(records, self.base.device, self.base.model.dtype)
        return Outputs(layers, likeliest[1], likeliest), documents

    def answer(self, batch: Batch, adapters: LoraBatch) -> Outputs:
        """The student: masked prompt, every row with its own adapter."""
        hidden = self.module.settings.mask == "none"
        with mask_embedded_as(self.base, mask_row_of(self.module)), inject(self.base.model, adapters):
            return self._outputs(batch, self.run(batch, batch.tokens.masked_ids, without_documents=hidden))

    def run(self, batch: Batch, ids: Tensor, without_documents: bool = False) -> tuple[Tensor, ...]:
        """Embeddings and layer outputs, M + 1 tensors (B, T, D); the last is after the final norm.

        without_documents: all other tokens are computed as if the documents' were not in the sequence.
        """
        tokens = batch.tokens.without_documents() if without_documents else batch.tokens
        attention = tokens.attention.to(self.base.model.dtype)
        return self.base.model.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=tokens.positions,
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states

    def _outputs(self, batch: Batch, states: tuple[Tensor, ...]) -> Outputs:
        compared = compared_positions(batch.tokens, self.recipe.losses.cosine_positions)
        logits = self.base.model.lm_head(states[-1][batch.tokens.is_supervised])
        return Outputs([layer[compared] for layer in states[1:]], logits)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Exact match (teacher-forced: equal to greedy's) of the student and of the shuffled control."""
        self.module.eval()
        scores = {}
        for name, rows in self.validation.items():
            right, control = [], []
            for begin in range(0, len(rows), 64):
                batch = self.collate(rows[begin : begin + 64])
                adapters = self.module(self.read(batch)[1])
                right.append(self._exact(batch, adapters))
                control.append(self._exact(batch, _others(adapters)))
            scores[f"exact_match/{name}"] = torch.cat(right).float().mean().item()
            scores[f"shuffled/{name}"] = torch.cat(control).float().mean().item()
        self.module.train()
        return scores

    def _exact(self, batch: Batch, adapters: LoraBatch) -> Tensor:
        return exact_rows(self.answer(batch, adapters).logits, batch.tokens)


def _others(adapters: LoraBatch) -> LoraBatch:
    """Every row with its neighbour's adapter."""
    return LoraBatch({key: (a.roll(1, 0), b.roll(1, 0)) for key, (a, b) in adapters.modules.items()}, adapters.scaling)


def train_generator(recipe: DistillRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Distil a generator as `recipe` says; the result is `recipe.output/model`. Returns the last evaluation."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(recipe.base or default_base(), device=device, dtype=getattr(torch, recipe.dtype))
    torch.manual_seed(recipe.training.seed)
    generator = load_generator(recipe.start_from, base) if recipe.start_from else build_generator(recipe.generator, base)
    generator.to(device)
    task = DistillTask(base, generator, recipe)

    def initialise() -> None:
        if not recipe.start_from:
            generator.initialise(task.read(task.batch(0))[1])

    def export(folder: Path) -> None:
        generator.save_pretrained(folder)

    return fit(
        task,
        recipe.training,
        recipe.output,
        resume=resume,
        recipe=recipe.model_dump(mode="json"),
        export=export,
        initialise=initialise,
        quiet=quiet,
    )
