"""Recipes of the baselines, and the documents that they name.

Knows nothing about models; `dprag train` reads them as it reads those of the generators.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field

from distilledprag.baselines.augmented import AugmentedDocument, documents_of_pairs
from distilledprag.baselines.prag import PragSettings
from distilledprag.distillation.loop import LoopSettings
from distilledprag.errors import InputError
from distilledprag.generators.dyprag import DypragSettings

PromptStyle = Literal["masked", "question_only", "open"]


class PairDocuments(Settings):
    """The documents of `dprag synthesize` files; `count`: a random sample of so many (None: all)."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["pairs"] = "pairs"
    files: list[Path] = Field(min_length=1)
    count: int | None = Field(None, gt=0)
    seed: int = 0

    def load(self) -> list[AugmentedDocument]:
        found = list(documents_of_pairs(self.files).values())
        if not found:
            raise InputError(f"{', '.join(map(str, self.files))}: no single-document pairs, which PRAG and DyPRAG train on")
        if self.count is not None and self.count < len(found):
            found = random.Random(self.seed).sample(found, self.count)
        return found


Dtype = Literal["float32", "bfloat16", "float16"]


class PragRecipe(Settings):
    """Fine-tune one adapter per document and keep them in `output`/adapters."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["prag"] = "prag"
    output: Path
    base: str | None = None
    dtype: Dtype = "float32"
    prag: PragSettings = PragSettings()
    data: PairDocuments


class DypragLosses(Settings):
    """L = L_lm + mse_weight L_mse + kl_weight L_kl; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid")
    mse_weight: float = Field(100.0, ge=0)
    kl_weight: float = Field(0.01, ge=0)


class DypragRecipe(Settings):
    """Train the translator on document-parameter pairs. `prag`: how the pairs' adapters are made (kept in
    `output`/adapters, or in `adapters`); `prompt`: what the answering model reads (the paper: question_only)."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["dyprag"] = "dyprag"
    output: Path
    base: str | None = None
    dtype: Dtype = "float32"
    adapters: Path | None = None
    prag: PragSettings = PragSettings()
    translator: DypragSettings = DypragSettings()
    data: PairDocuments
    rows: int = Field(1, gt=0)
    prompt: PromptStyle = "masked"
    losses: DypragLosses = DypragLosses()
    validation_share: float = Field(0.05, ge=0, lt=1)
    training: LoopSettings
