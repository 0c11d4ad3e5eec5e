"""DyPRAG's training (Tan et al. 2025, arXiv 2503.23895): a translator learns to imitate PRAG's adapters.

    B = rows, one document and question each   T = tokens   N = supervised positions   V = vocabulary

    L = L_lm + mse_weight L_mse + kl_weight L_kl: the answer's cross-entropy with the translator's adapter, the distance of its
    entries from PRAG's, and the KL divergence of its answers from those with PRAG's adapter

The translator itself is `generators/dyprag.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from rich.progress import track
from torch import Tensor, nn

from distilledprag.base.llm import BaseLLM
from distilledprag.baselines.prag import (
    AugmentedDocument,
    PairDocuments,
    PragAdapters,
    PragSettings,
    PromptVariant,
    open_adapters,
    prompt_ids,
)
from distilledprag.distillation.loop import LoopSettings, fit
from distilledprag.distillation.losses import generation_loss, kl_loss
from distilledprag.distillation.packing import IGNORED
from distilledprag.distillation.pair_data import epoch_order
from distilledprag.errors import ConfigError
from distilledprag.generators.dyprag import DypragSettings, DypragTranslator
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraBatch
from distilledprag.recipes import Dtype


class DypragLosses(Settings):
    """L = L_lm + mse_weight L_mse + kl_weight L_kl; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid")
    mse_weight: float = Field(100.0, ge=0)
    kl_weight: float = Field(0.01, ge=0)


class DypragRecipe(Settings):
    """Train the translator on document-parameter pairs. `prag`: how the pairs' adapters are made (kept in
    `output`/adapters, or in `adapters`); `prompt_variant`: what the answering model reads (the paper: question_only)."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["dyprag"] = "dyprag"
    output: Path
    base: str | None = None
    dtype: Dtype = "float32"
    adapters: Path | None = None
    prag: PragSettings = PragSettings()
    translator: DypragSettings = DypragSettings()
    data: PairDocuments
    batch_size: int = Field(1, gt=0)
    prompt_variant: PromptVariant = "masked"
    losses: DypragLosses = DypragLosses()
    validation_share: float = Field(0.05, ge=0, lt=1)
    training: LoopSettings


@dataclass
class DypragBatch:
    """`ids`, `targets`: (B, T), padded on the right; targets are IGNORED but at the answer. One document and question a row."""

    ids: Tensor
    targets: Tensor
    attention: Tensor
    documents: list[AugmentedDocument]


class DypragTask:
    """What the loop trains: `module` is the translator. The adapters it imitates are made on first use and kept."""

    def __init__(self, base: BaseLLM, translator: DypragTranslator, recipe: DypragRecipe, adapters: PragAdapters) -> None:
        prag, own = recipe.prag, recipe.translator
        if (prag.rank, prag.alpha, prag.target_modules) != (own.rank, own.alpha, own.target_modules):
            raise ConfigError("prag and translator must have the same rank, alpha and target_modules: one imitates the other")
        self.base, self.module, self.recipe, self.adapters = base, translator, recipe, adapters
        self.prompts = adapters.prompts
        documents = recipe.data.load()
        random.Random(f"split/{recipe.training.seed}").shuffle(documents)
        held_back = min(round(len(documents) * recipe.validation_share), len(documents) - 1)
        self.validation, self.documents = documents[:held_back], documents[held_back:]

    def batch(self, number: int) -> DypragBatch:
        """A pure function of `number`: documents in a seeded order, new every epoch, each with one of its questions."""
        chosen = []
        for index in range(number * self.recipe.batch_size, (number + 1) * self.recipe.batch_size):
            epoch, place = divmod(index, len(self.documents))
            document = self.documents[epoch_order(len(self.documents), self.recipe.training.seed, epoch)[place]]
            pair = random.Random(f"question/{self.recipe.training.seed}/{index}").choice(document.questions)
            chosen.append((document, pair))
        return self.collate(chosen)

    def collate(self, chosen: list[tuple[AugmentedDocument, tuple[str, str]]]) -> DypragBatch:
        rows = []
        for document, (question, answer) in chosen:
            prompt = prompt_ids(self.prompts, question, [document.text], self.recipe.prompt_variant)
            rows.append((prompt, self.prompts.answer_ids(answer)))
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)

        def padded(row: list[int], filler: int) -> list[int]:
            return row + [filler] * (longest - len(row))

        device = self.base.device
        return DypragBatch(
            torch.tensor([padded(prompt + answer, 0) for prompt, answer in rows], device=device),
            torch.tensor([padded([IGNORED] * len(prompt) + answer, IGNORED) for prompt, answer in rows], device=device),
            torch.tensor([padded([1] * (len(prompt) + len(answer)), 0) for prompt, answer in rows], device=device),
            [document for document, _ in chosen],
        )

    def size(self, batch: DypragBatch) -> int:
        return len(batch.documents)

    def losses(self, batch: DypragBatch, module: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its parts `loss_generation`, `loss_mse`, `loss_kl` (unweighted)."""
        wanted = LoraBatch.stack([self.adapters.adapter(document) for document in batch.documents]).to(device=self.base.device)
        made = module(self.module.encode(self.base, [[document.text] for document in batch.documents]))
        logits = self._logits(batch, made)
        with torch.no_grad():
            teacher = self._logits(batch, wanted)
        targets = batch.targets[:, 1:]
        parts = {"loss_generation": generation_loss(logits, targets[targets != IGNORED])}
        parts["loss_mse"] = parameter_distance(made, wanted)
        parts["loss_kl"] = kl_loss(logits, teacher, temperature=1.0)
        weights = self.recipe.losses
        total = parts["loss_generation"] + weights.mse_weight * parts["loss_mse"] + weights.kl_weight * parts["loss_kl"]
        return {"loss": total, **parts}

    def _logits(self, batch: DypragBatch, adapters: LoraBatch) -> Tensor:
        """(N, V) at the positions that predict an answer token."""
        with inject(self.base.model, adapters):
            logits = self.base.model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits
        return logits[:, :-1][batch.targets[:, 1:] != IGNORED]

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Losses on the documents held back, one question each; nothing where none are held back."""
        if not self.validation:
            return {}
        self.module.eval()
        sums: dict[str, float] = {}
        for document in self.validation:
            parts = self.losses(self.collate([(document, document.questions[0])]), self.module, step)
            for name, value in parts.items():
                sums[f"validation/{name}"] = sums.get(f"validation/{name}", 0.0) + value.item() / len(self.validation)
        self.module.train()
        return sums


def parameter_distance(made: LoraBatch, wanted: LoraBatch) -> Tensor:
    """L_mse: mean squared difference over all entries of all A and B."""
    total, count = torch.zeros((), device=next(iter(made.modules.values()))[0].device), 0
    for key, pair in made.modules.items():
        for ours, theirs in zip(pair, wanted.modules[key], strict=True):
            total = total + (ours - theirs).square().sum()
            count += ours.numel()
    return total / count


def train_dyprag(recipe: DypragRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train the translator; the result is `recipe.output/model`. Returns the last evaluation."""
    adapters = open_adapters(recipe.base, recipe.dtype, recipe.prag, recipe.adapters or recipe.output / "adapters")
    base = adapters.base
    torch.manual_seed(recipe.training.seed)
    translator = DypragTranslator(recipe.translator, base).to(base.device)
    task = DypragTask(base, translator, recipe, adapters)
    adapters.prepare(track([*task.validation, *task.documents], "PRAG's adapters", disable=quiet))

    return fit(
        task,
        recipe.training,
        recipe.output,
        resume=resume,
        recipe=recipe.model_dump(mode="json"),
        export=translator.save_pretrained,
        quiet=quiet,
    )
