"""`dprag train` of the baselines: PRAG's adapters, and DyPRAG's translator on the pairs (document, PRAG's adapter).

B = rows, T = tokens, N = supervised positions, V = vocabulary. This module knows nothing about evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from distilledprag.base.llm import BaseLLM, load_base, weights_hash
from distilledprag.baselines.augmented import AugmentedDocument
from distilledprag.baselines.prag import IGNORED
from distilledprag.baselines.recipes import DypragRecipe, PragRecipe, PromptStyle
from distilledprag.baselines.store import PragAdapters
from distilledprag.distillation.loop import fit
from distilledprag.distillation.losses import kl_loss
from distilledprag.errors import ConfigError
from distilledprag.generators.dyprag import DypragTranslator
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject
from distilledprag.prompts import PromptBuilder


@dataclass
class DypragBatch:
    """`ids`, `targets`: (B, T), padded on the right; targets are IGNORED but at the answer. One document and question a row."""

    ids: Tensor
    targets: Tensor
    attention: Tensor
    documents: list[AugmentedDocument]


def styled_prompt(prompts: PromptBuilder, question: str, documents: Sequence[str], style: PromptStyle) -> list[int]:
    """The prompt's ids: masked documents, no documents at all, or documents in plaintext."""
    if style == "question_only":
        return prompts.closed_book(question)
    prompt = prompts.build(question, documents)
    return prompt.masked_ids if style == "masked" else prompt.open_ids


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
        for index in range(number * self.recipe.rows, (number + 1) * self.recipe.rows):
            epoch, place = divmod(index, len(self.documents))
            order = list(range(len(self.documents)))
            random.Random(f"epoch/{self.recipe.training.seed}/{epoch}").shuffle(order)
            document = self.documents[order[place]]
            pair = random.Random(f"question/{self.recipe.training.seed}/{index}").choice(document.questions)
            chosen.append((document, pair))
        return self.collate(chosen)

    def collate(self, chosen: list[tuple[AugmentedDocument, tuple[str, str]]]) -> DypragBatch:
        rows = []
        for document, (question, answer) in chosen:
            prompt = styled_prompt(self.prompts, question, [document.text], self.recipe.prompt)
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
        """`loss` and its parts `loss_gen`, `loss_mse`, `loss_kl` (unweighted)."""
        wanted = LoraBatch.stack([self.adapters.adapter(document) for document in batch.documents]).to(device=self.base.device)
        made = module(self.module.encode(self.base, [[document.text] for document in batch.documents]))
        logits = self._logits(batch, made)
        with torch.no_grad():
            teacher = self._logits(batch, wanted)
        targets = batch.targets[:, 1:]
        parts = {"loss_gen": functional.cross_entropy(logits.float(), targets[targets != IGNORED])}
        parts["loss_mse"] = parameter_distance(made, wanted)
        parts["loss_kl"] = kl_loss(logits, teacher, temperature=1.0)
        weights = self.recipe.losses
        total = parts["loss_gen"] + weights.mse_weight * parts["loss_mse"] + weights.kl_weight * parts["loss_kl"]
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


def _loaded(recipe: PragRecipe | DypragRecipe, folder: Path) -> tuple[BaseLLM, PragAdapters]:
    from distilledprag.base.default import default_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(recipe.base or default_base(), device=device, dtype=getattr(torch, recipe.dtype))
    prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
    return base, PragAdapters(base, prompts, recipe.prag, weights_hash(base.model), folder)


def train_prag(recipe: PragRecipe, *, quiet: bool = False) -> dict[str, float]:
    """Make the adapters of all of the recipe's documents; those that are there already are kept, so a run can be repeated."""
    _, adapters = _loaded(recipe, recipe.output / "adapters")
    documents = recipe.data.load()
    made = adapters.prepare(track(documents, "adapters", disable=quiet))
    return {"documents": float(len(documents)), "made": float(made)}


def train_dyprag(recipe: DypragRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train the translator; the result is `recipe.output/model`. Returns the last evaluation."""
    base, adapters = _loaded(recipe, recipe.adapters or recipe.output / "adapters")
    torch.manual_seed(recipe.training.seed)
    translator = DypragTranslator(recipe.translator, base).to(base.device)
    task = DypragTask(base, translator, recipe, adapters)
    adapters.prepare(track([*task.validation, *task.documents], "PRAG's adapters", disable=quiet))

    def export(folder: Path) -> None:
        translator.save_pretrained(folder)

    return fit(
        task,
        recipe.training,
        recipe.output,
        resume=resume,
        recipe=recipe.model_dump(mode="json"),
        export=export,
        quiet=quiet,
    )
