"""Trains a compressor of states: a prompt with fewer masks than tokens must answer as the plain prompt does.

    B = contexts of a batch   N = supervised positions   P = positions of questions and answers   V = vocabulary

    teacher   the frozen base on the plain prompt
    student   the same base; at the masks, after layer L, the compressor's rows

Losses and data are the paper's (L_gen + cosine_weight L_cos + kl_weight L_KL); the backward pass ends at the layers that merge.
The ratio is drawn for each step; harder ones join one by one over the first half of the run.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from distilledprag.base.architecture import all_hidden_states, changed_layer_output, logits_of
from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM
from distilledprag.distillation.loop import SharedLoopSettings, fit
from distilledprag.distillation.losses import cosine_loss, generation_loss, kl_loss
from distilledprag.distillation.packing import PackedRows, RowTable
from distilledprag.distillation.pair_data import PairData, TrainingRow
from distilledprag.distillation.recipes import PairSource
from distilledprag.distillation.sharded_base import load_for_training
from distilledprag.generators.compressed import CompressorSettings, StateCompressor, load_compressor
from distilledprag.lora.injection import inject
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import Dtype

VALIDATED = 16  # contexts of a batch in validation


class CompressorLosses(Settings):
    """L = L_gen + cosine_weight L_cos + kl_weight L_KL, at `temperature`; the cosine is over questions and answers."""

    model_config = ConfigDict(extra="forbid")
    cosine_weight: float = Field(0.5, ge=0)
    kl_weight: float = Field(0.5, ge=0)
    temperature: float = Field(1.0, gt=0)


class CompressRecipe(Settings):
    """`task: compress`. base: folder or hub id of a prepared base; None: the default one. start_from: a compressor to go on
    from."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["compress"] = "compress"
    output: Path
    base: str | None = None
    dtype: Dtype = "bfloat16"
    compressor: CompressorSettings = CompressorSettings()
    start_from: str | None = None
    data: PairSource
    losses: CompressorLosses = CompressorLosses()
    training: SharedLoopSettings


@dataclass
class CompressedBatch:
    """One context a row. passages: of all contexts, one after the other; sizes: groups of each passage's tokens."""

    teacher: PackedRows
    student: PackedRows
    passages: list[str]
    sizes: list[list[int]]

    def to(self, device: torch.device | str) -> CompressedBatch:
        return CompressedBatch(self.teacher.to(device), self.student.to(device), self.passages, self.sizes)


class CompressorTask:
    """What the training loop trains: `module` is the compressor; the base stays frozen."""

    def __init__(self, base: BaseLLM, compressor: StateCompressor, recipe: CompressRecipe) -> None:
        self.base, self.module, self.recipe = base, compressor, recipe
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        self.pad_id = base.tokenizer.pad_token_id or base.tokenizer.eos_token_id or 0
        self.data = PairData(self.prompts, recipe.data)
        self.held_back = [row for rows in self.data.validation_rows().values() for row in rows]

    def ratio(self, number: int) -> int:
        """Of batch `number`: one of those that have joined by then."""
        ratios, training = self.recipe.compressor.ratios, self.recipe.training
        share = min(1.0, 2 * number / (training.steps * training.gradient_accumulation_steps))
        joined = sorted(ratios)[: max(1, math.ceil(share * len(ratios)))]
        return random.Random(f"ratio/{training.seed}/{number}").choice(joined)

    def batch(self, number: int) -> CompressedBatch:
        return self.collate(self.data.rows(number), self.ratio(number))

    def collate(self, rows: Sequence[TrainingRow], ratio: int) -> CompressedBatch:
        teacher, student = RowTable(len(rows)), RowTable(len(rows))
        passages: list[str] = []
        sizes: list[list[int]] = []
        for number, row in enumerate(rows):
            groups = [self.module.group(self.prompts.document_ids(text), ratio) for text in row.passages]
            teacher.add(number, 0, row.context.open_ids, row.questions)
            student.add(number, 0, self.prompts.masked_context(list(map(len, groups))), row.questions)
            passages += [text for text, given in zip(row.passages, groups, strict=True) if given]
            sizes += filter(None, groups)
        return CompressedBatch(teacher.tensors(self.pad_id), student.tensors(self.pad_id), passages, sizes).to(self.base.device)

    def size(self, batch: CompressedBatch) -> int:
        return len(batch.teacher.ids)

    def losses(self, batch: CompressedBatch, module: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its parts `loss_generation`, `loss_cosine`, `loss_kl` (unweighted)."""
        settings = self.recipe.losses
        with torch.no_grad():
            teacher = self._run(batch.teacher)
            wanted = logits_of(self.base.model, teacher[-1][batch.teacher.is_supervised])
        student, logits = self.answer(batch, module(self.base, batch.passages, batch.sizes))
        above = self.recipe.compressor.layer + 2  # index of the first layer's output that can differ from the masks' own
        ours, theirs = ([states[rows.is_question] for states in found[above:]] for found, rows in (
            (student, batch.student), (teacher, batch.teacher)))  # fmt: skip
        parts = {
            "loss_generation": generation_loss(logits, batch.student.labels[batch.student.is_supervised]),
            "loss_cosine": cosine_loss(ours, theirs),
            "loss_kl": kl_loss(logits, wanted, settings.temperature),
        }
        total = parts["loss_generation"] + settings.cosine_weight * parts["loss_cosine"] + settings.kl_weight * parts["loss_kl"]
        return {"loss": total, **parts}

    def answer(self, batch: CompressedBatch, rows: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The student's states (see `all_hidden_states`), and its logits (N, V)."""
        masks = (batch.student.ids == self.base.mask_token_id) & batch.student.is_token
        targets, states = masks.flatten().nonzero()[:, 0], torch.cat(list(rows))

        def write(hidden: Tensor) -> Tensor:
            return hidden.flatten(0, 1).index_copy(0, targets, states.to(hidden.dtype)).view_as(hidden)

        decoder = self.module.decoder_batch()
        with contextlib.ExitStack() as changes:
            if decoder is not None:
                changes.enter_context(inject(self.base.model, decoder))
            changes.enter_context(changed_layer_output(self.base.model, self.recipe.compressor.layer, write))
            found = self._run(batch.student)
        return found, logits_of(self.base.model, found[-1][batch.student.is_supervised])

    def _run(self, rows: PackedRows) -> tuple[Tensor, ...]:
        return all_hidden_states(self.base.model, **rows.inputs(self.base.model.dtype))

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """By ratio: exact match (teacher-forced, equal to greedy's) with a passage's own rows and with another context's."""
        scores = {}
        for ratio in self.recipe.compressor.ratios:
            right: list[bool] = []
            control: list[bool] = []
            for begin in range(0, len(self.held_back), VALIDATED):
                batch = self.collate(self.held_back[begin : begin + VALIDATED], ratio)
                rows = self.module(self.base, batch.passages, batch.sizes)
                right += batch.student.all_right(self.answer(batch, rows)[1]).tolist()
                control += batch.student.all_right(self.answer(batch, _rotated(rows))[1]).tolist()
            if right:
                scores[f"exact_match/r{ratio}"] = sum(right) / len(right)
                scores[f"shuffled/r{ratio}"] = sum(control) / len(control)
        return scores


def _rotated(rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows of all passages moved on by half of them, cut into pieces of the same lengths."""
    flat = torch.cat(list(rows))
    return list(flat.roll(len(flat) // 2, 0).split([len(one) for one in rows]))


def train_compressor(recipe: CompressRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train a compressor as `recipe` says; the result is `recipe.output/model`. Returns the last evaluation."""

    def build(base: BaseLLM) -> StateCompressor:
        return (
            load_compressor(recipe.start_from, base).requires_grad_()
            if recipe.start_from
            else StateCompressor(recipe.compressor, base)
        )

    base, compressor = load_for_training(
        recipe.base or default_base(),
        build,
        dtype=getattr(torch, recipe.dtype),
        seed=recipe.training.seed,
        shard=recipe.training.shard_base,
        quiet=quiet,
    )
    task = CompressorTask(base, compressor, recipe)
    if recipe.compressor.memory == "kept" and not recipe.start_from:
        compressor.learn_frequencies({text for passages, _ in task.data.groups for text in passages})
    return fit(
        task,
        recipe.training,
        recipe.output,
        resume=resume,
        recipe=recipe.model_dump(mode="json"),
        export=compressor.save_pretrained,
        quiet=quiet,
        together=recipe.training.shard_base,
    )
