"""The recipe of `dprag train` for a reader: which base, which data, where to, and the settings of the joint stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from distilledprag.base.default import original_base
from distilledprag.distillation.joint import JointSettings, JointTraining, train_reader


class ReaderRecipe(BaseModel):
    """base: a causal LM's folder or hub id; None: SmolLM2-135M-Instruct. data: files or folders. device: auto, cpu or cuda."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["reader"]
    base: str | None = None
    data: list[Path]
    output: Path
    device: str = "auto"
    start_from: Path | None = None
    training: JointSettings = JointSettings()


def train(recipe: ReaderRecipe, *, resume: bool) -> JointTraining:
    """Errors as in `train_reader`."""
    device = recipe.device if recipe.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    base = recipe.base or original_base(print)
    return train_reader(
        base, recipe.data, recipe.output, recipe.training, device=device, start_from=recipe.start_from, resume=resume
    )
