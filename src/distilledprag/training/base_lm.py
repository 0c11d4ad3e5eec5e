"""Training the small base LM that ships with the package, from nothing, to read in context.

What makes it learn on a CPU in about an hour: loss on answers only, several questions per context, batches that repeat a
random token string (copying comes first), one passage before several. B = rows, T = tokens, D = model dimension.
"""

from __future__ import annotations

import copy
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from distilledprag.base_model import install_mask, save_base
from distilledprag.prompts import PromptBuilder
from distilledprag.spare_units import add_spare_units
from distilledprag.training.guidance import Guidance, GuidanceSettings, RowGuide, guide_row
from distilledprag.training.induction import install_induction, install_matching
from distilledprag.training.loop import LoopSettings, fit
from distilledprag.training.packing import IGNORED, PackedBatch, PackedRow, collate, exact_rows
from distilledprag.training.tokenizer import train_tokenizer
from distilledprag.training.world_data import WorldData, WorldDataSettings, validation_rows


class BaseModelSettings(BaseModel):
    """Shape of the base LM (Llama architecture with attention biases, tied embeddings). `induction`: start with a
    working induction circuit, `matching`: and with heads that match by name (see induction.py), not from noise only;
    `spare`: intermediate units of zeros that the finished base gets for adapters (see spare_units.py)."""

    model_config = ConfigDict(extra="forbid")
    vocabulary: int = 4096
    hidden: int = 128
    intermediate: int = 384
    layers: int = 6
    heads: int = 4
    induction: bool = True
    matching: bool = False
    context: int = 4096
    spare: int = Field(0, ge=0)


class BaseRecipe(BaseModel):
    """A `dprag train-base` recipe."""

    model_config = ConfigDict(extra="forbid")
    task: str = Field("base", pattern="^base$")
    output: Path
    model: BaseModelSettings = BaseModelSettings()
    data: WorldDataSettings = WorldDataSettings()
    training: LoopSettings
    guidance: GuidanceSettings = GuidanceSettings()
    validation: int = 64
    mask_seed: int = 0


def build_base(settings: BaseModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A randomly initialised base LM for `tokenizer`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        attention_bias=True,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if settings.induction:
        install_induction(model)
    if settings.matching:
        install_matching(model, collect=2, match=(3, 4))
    return model


def answer_logits(model: Any, batch: PackedBatch, ids: Tensor) -> Tensor:
    """Logits (N, vocabulary) at the N supervised positions of the batch, row by row."""
    states = model.model(
        input_ids=ids, attention_mask=batch.attention, position_ids=batch.positions, use_cache=False
    ).last_hidden_state  # (B, T, D)
    return model.lm_head(states[batch.is_supervised])


class BaseTask:
    """Answer-only loss over packed world examples, with copy batches in between."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: BaseRecipe) -> None:
        prompts = PromptBuilder(tokenizer, tokenizer.pad_token_id)
        self.module = model
        self.pad_id = tokenizer.pad_token_id
        self.recipe = recipe
        self.pieces = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
        self.guidance = Guidance(model, recipe.guidance) if recipe.guidance.weight else None
        self.data = WorldData(prompts, recipe.data, "train", recipe.training.steps * recipe.training.accumulation)
        self.validation = validation_rows(prompts, recipe.data.style, recipe.validation)

    def batch(self, number: int) -> tuple[PackedBatch, list[RowGuide]]:
        """Batch `number` and, where its answers are to be found in passages, guides for the heads."""
        if self.data.is_copy(number):
            return collate(self._copy_rows(number), self.pad_id).to(self.module.device), []
        rows = self.data.rows(number)
        batch = collate([row.packed for row in rows], self.pad_id).to(self.module.device)
        guides = [guide_row(row, batch.open_ids.size(1), self.pieces) for row in rows] if self.guidance else []
        return batch, guides

    def _copy_rows(self, number: int) -> list[PackedRow]:
        rng = random.Random(f"copied/{self.recipe.data.seed}/{number}")
        vocabulary = self.module.config.vocab_size
        rows = []
        for _ in range(max(self.recipe.data.rows.values())):
            string = [rng.randrange(2, vocabulary) for _ in range(rng.randint(8, 40))]
            ids = string * 3
            targets = [IGNORED] * len(string) + ids[len(string) + 1 :] + [IGNORED]
            rows.append(PackedRow(ids, ids, [False] * len(ids), list(range(len(ids))), [0] * len(ids), targets))
        return rows

    def size(self, batch: tuple[PackedBatch, list[RowGuide]]) -> int:
        return batch[0].open_ids.size(0)

    def losses(self, batch: tuple[PackedBatch, list[RowGuide]], module: nn.Module, step: int) -> dict[str, Tensor]:
        packed, guides = batch
        with self.guidance.listening() if self.guidance and guides else nullcontext():
            logits = answer_logits(module, packed, packed.open_ids)
        answers = functional.cross_entropy(logits.float(), packed.targets[packed.is_supervised])
        if not (self.guidance and guides):
            return {"loss": answers}
        guidance = self.guidance.losses(packed, guides)
        loss = answers + self.guidance.settings.weight * sum(guidance.values(), start=answers.new_zeros(()))
        return {"loss": loss, "answers": answers, **guidance}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Exact match on the validation world by kind and number of passages."""
        self.module.eval()
        scores = {}
        for name, rows in self.validation.items():
            batch = collate([row.packed for row in rows], self.pad_id).to(self.module.device)
            right = exact_rows(answer_logits(self.module, batch, batch.open_ids), batch)
            scores[f"exact_match/{name}"] = right.float().mean().item()
        self.module.train()
        return scores


def train_base(recipe: BaseRecipe, *, resume: bool = False, quiet: bool = False) -> dict[str, float]:
    """Train tokenizer and base LM as `recipe` says; the result (mask token installed) is `recipe.output/model`."""
    tokenizer = train_tokenizer(vocabulary=recipe.model.vocabulary, context=recipe.model.context)
    model = build_base(recipe.model, tokenizer, recipe.training.seed)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    task = BaseTask(model, tokenizer, recipe)
    dump: dict[str, Any] = recipe.model_dump(mode="json")

    def export(folder: Path) -> None:
        finished, its_tokenizer = copy.deepcopy(model).cpu(), copy.deepcopy(tokenizer)
        install_mask(finished, its_tokenizer, seed=recipe.mask_seed)
        add_spare_units(finished, recipe.model.spare)
        save_base(finished, its_tokenizer, folder)

    return fit(task, recipe.training, recipe.output, resume=resume, recipe=dump, export=export, quiet=quiet)
