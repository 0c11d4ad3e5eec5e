"""Distils a generator: it learns to make LoRA with which the masked prompt works like the plaintext one.

    B = contexts of a batch   T = tokens   D = model dimension   M = layers   P = compared positions   N = supervised positions
    V = vocabulary

    teacher   the frozen base LLM on the open prompt
    student   the same LLM on the masked prompt, with the LoRA that the generator makes of the passages

Source: the paper's section on knowledge distillation. An example's way to the loss: `pair_data.py` draws it, `packing.py` puts it
in rows, `DistillTask.losses` runs teacher, generator and student, `losses.py` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distilledprag.base.architecture import all_hidden_states, logits_of
from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM
from distilledprag.distillation.loop import fit
from distilledprag.distillation.losses import cosine_loss, generation_loss, kl_loss, top_k_kl_loss
from distilledprag.distillation.packing import PackedRows
from distilledprag.distillation.pair_data import Batch, PairData, TrainingRow, collate
from distilledprag.distillation.processes import training_processes
from distilledprag.distillation.recipes import CosinePositions, DistillRecipe
from distilledprag.distillation.sharded_base import load_for_training
from distilledprag.distillation.teacher_cache import TeacherCache, batch_of, records_of
from distilledprag.generators.document_states import DocumentStates
from distilledprag.generators.interface import (
    ParameterGenerator,
    build_generator,
    load_generator,
    mask_embedded_as,
    mask_row_of,
)
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder


@dataclass
class Outputs:
    """`layers`: M tensors (P, D) at the compared positions. `logits`: (N, V) at the supervised ones."""

    layers: list[Tensor]
    logits: Tensor


@dataclass
class CachedOutputs:
    """A teacher from a cache: `layers` as in `Outputs`; ids (N, k) of its most probable tokens and their log-probabilities (N, k)
    at the recipe's temperature."""

    layers: list[Tensor]
    ids: Tensor
    log_probabilities: Tensor


def compared_positions(batch: Batch, where: CosinePositions) -> Tensor:
    """(B, T) bool: where the cosine loss compares student and teacher. Padding is never compared."""
    rows = batch.teacher
    if where == "answer":
        return rows.is_supervised
    if where == "question_and_answer":
        return rows.is_question
    return rows.is_token & ~batch.is_document if where == "outside_documents" else rows.is_token


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
        """Rows as one batch on the base's device."""
        return collate(rows, self.pad_id).to(self.base.device)

    def batch(self, number: int) -> Batch:
        """Batch `number` (from 0) of the training data; the same one every time."""
        return self.collate(self.data.rows(number))

    def size(self, batch: Batch) -> int:
        """B, for the examples per second in the log."""
        return len(batch.passages)

    def initialise(self) -> None:
        """Let the generator set parameters from the first batch's documents (its `initialise`)."""
        self.module.initialise(self.read(self.batch(0))[1])

    def losses(self, batch: Batch, module: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its parts `loss_generation`, `loss_cosine`, `loss_kl` (unweighted)."""
        settings = self.recipe.losses
        teacher, documents = self.read(batch) if self.cache is None else self._read_through(batch, self.cache)
        student = self.answer(batch, module(documents))
        parts = {"loss_generation": generation_loss(student.logits, batch.student.labels[batch.student.is_supervised])}
        parts["loss_cosine"] = cosine_loss(student.layers, teacher.layers)
        if isinstance(teacher, CachedOutputs):
            cached = (teacher.ids, teacher.log_probabilities)
            parts["loss_kl"] = top_k_kl_loss(student.logits, *cached, settings.temperature)
        else:
            parts["loss_kl"] = kl_loss(student.logits, teacher.logits, settings.temperature)
        weighted = settings.cosine_weight * parts["loss_cosine"] + settings.kl_weight * parts["loss_kl"]
        return {"loss": parts["loss_generation"] + weighted, **parts}

    @torch.no_grad()
    def read(self, batch: Batch) -> tuple[Outputs, DocumentStates]:
        """Teacher outputs, and the document states for the generator (from the same forward pass where it can be)."""
        states = self.run(batch.teacher)
        if not self.module.reads_base:
            return self._outputs(batch, states), self.module.encode(self.base, batch.passages)
        length = int(batch.is_document.any(dim=0).nonzero().max()) + 1
        documents = DocumentStates(torch.stack([s[:, :length] for s in states]), batch.is_document[:, :length])
        return self._outputs(batch, states), documents

    def _read_through(self, batch: Batch, cache: TeacherCache) -> tuple[CachedOutputs, DocumentStates]:
        """As `read`, from the cache; what is not there yet is computed and added. Both ways give the same numbers."""
        rows = batch.teacher
        compared = compared_positions(batch, self.recipe.losses.cosine_positions)
        real = zip(rows.ids, rows.segments, rows.labels, rows.is_token, strict=True)
        keys = [cache.key([part[token].tolist() for part in (ids, segments, labels)]) for ids, segments, labels, token in real]
        records = cache.load(keys)
        missing = records is None
        if self.recipe.training.shard_base:  # then the teacher runs in all processes or in none
            missing = not training_processes().agree(not missing)
        if records is None or missing:
            teacher, documents = self.read(batch)
            size, temperature = cache.settings.top_k, self.recipe.losses.temperature
            where = (compared, rows.is_supervised)
            records = records_of(teacher.layers, teacher.logits, documents, *where, top_k=size, temperature=temperature)
            cache.store(keys, records)
        layers, (ids, log_probabilities), documents = batch_of(records, self.base.device, self.base.model.dtype)
        return CachedOutputs(layers, ids, log_probabilities), documents

    def answer(self, batch: Batch, adapters: LoraBatch) -> Outputs:
        """The student: masked prompt, every row with its own adapter."""
        without_masks = self.module.settings.mask == "none"
        rows = batch.student.without(batch.is_document) if without_masks else batch.student
        with mask_embedded_as(self.base, mask_row_of(self.module)), inject(self.base.model, adapters):
            return self._outputs(batch, self.run(rows))

    def run(self, rows: PackedRows) -> tuple[Tensor, ...]:
        """Embeddings and layer outputs, M + 1 tensors (B, T, D); the last is after the final norm."""
        return all_hidden_states(self.base.model, **rows.inputs(self.base.model.dtype))

    def _outputs(self, batch: Batch, states: tuple[Tensor, ...]) -> Outputs:
        compared = compared_positions(batch, self.recipe.losses.cosine_positions)
        logits = logits_of(self.base.model, states[-1][batch.student.is_supervised])
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
                right.append(batch.student.all_right(self.answer(batch, adapters).logits))
                control.append(batch.student.all_right(self.answer(batch, _others(adapters)).logits))
            scores[f"exact_match/{name}"] = torch.cat(right).float().mean().item()
            scores[f"shuffled/{name}"] = torch.cat(control).float().mean().item()
        self.module.train()
        return scores


def _others(adapters: LoraBatch) -> LoraBatch:
    """Every row with its neighbour's adapter."""
    return LoraBatch({key: (a.roll(1, 0), b.roll(1, 0)) for key, (a, b) in adapters.modules.items()}, adapters.scaling)


def train_generator(recipe: DistillRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Distil a generator as `recipe` says; the result is `recipe.output/model`. Returns the last evaluation."""

    def build(base: BaseLLM) -> ParameterGenerator:
        return load_generator(recipe.start_from, base) if recipe.start_from else build_generator(recipe.generator, base)

    base, generator = load_for_training(
        recipe.base or default_base(),
        build,
        dtype=getattr(torch, recipe.dtype),
        seed=recipe.training.seed,
        shard=recipe.training.shard_base,
        quiet=quiet,
    )
    task = DistillTask(base, generator, recipe)

    return fit(
        task,
        recipe.training,
        recipe.output,
        resume=resume,
        recipe=recipe.model_dump(mode="json"),
        export=generator.save_pretrained,
        initialise=None if recipe.start_from else task.initialise,
        quiet=quiet,
        together=recipe.training.shard_base,
    )
