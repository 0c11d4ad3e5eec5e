"""The recipes of `dprag train` for a reader and for a generator. (The baselines' recipes are in baselines/.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field

from distilledprag.distillation.loop import SharedLoopSettings
from distilledprag.distillation.pair_data import PairDataSettings
from distilledprag.distillation.reader_training import ReaderSettings
from distilledprag.distillation.teacher_cache import CacheSettings
from distilledprag.recipes import Dtype

CosinePositions = Literal["outside_documents", "question_and_answer", "answer", "all"]


class LossSettings(Settings):
    """Weights and details of L = L_gen + cosine_weight L_cos + kl_weight L_KL. The defaults are the paper's, except that the
    cosine leaves out the document positions, where the student sees only masks (`cosine_positions: all` is the released code)."""

    model_config = ConfigDict(extra="forbid")
    cosine_weight: float = Field(0.5, ge=0)
    kl_weight: float = Field(0.1, ge=0)
    temperature: float = Field(2.0, gt=0)
    cosine_positions: CosinePositions = "outside_documents"


class PairSource(PairDataSettings):
    """Train on synthesized question-answer pairs."""

    source: Literal["pairs"] = "pairs"


class DistillRecipe(Settings):
    """`task: distill`, a generator. `base`: folder or hub id of a base with a mask token; None: the default one.

    `start_from`: a generator checkpoint to go on from; `teacher_cache`: keep the teacher's outputs on disk, for data that
    is seen more than once.
    """

    model_config = ConfigDict(extra="forbid")
    task: Literal["distill"] = "distill"
    output: Path
    base: str | None = None
    dtype: Dtype = "float32"
    generator: dict[str, Any]
    start_from: str | None = None
    data: PairSource
    losses: LossSettings = LossSettings()
    teacher_cache: CacheSettings | None = None
    training: SharedLoopSettings


class ReaderRecipe(Settings):
    """`task: reader`, what ships for a base. `base`: a causal LM's folder or hub id; None: SmolLM2-135M-Instruct. `data`: files
    or folders. `device`: auto, cpu or cuda. `start_from`: folder of an earlier run whose LoRA is the start."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["reader"] = "reader"
    base: str | None = None
    data: list[Path]
    output: Path
    device: str = "auto"
    start_from: Path | None = None
    training: ReaderSettings = ReaderSettings()
