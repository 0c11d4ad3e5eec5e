"""The training loop shared by base-model training and distillation.

A `Task` says what is trained and on what; the loop does accumulation, clipping, schedule, checkpoints, resume, logs.
A batch is a pure function of its number and every random state is in the checkpoint, so a run that was killed and
resumed writes the same losses as one that was not. The loop knows nothing about documents, prompts or adapters.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder
from distilledprag.training.optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedule


class LoopSettings(BaseModel):
    """How to train. Learning rates are peaks; `warmup` and `decay` are shares of `steps`."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(gt=0)
    lr: float = Field(1e-4, gt=0)
    matrix_lr: float = Field(0.02, gt=0)
    optimizer: OptimizerName = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    schedule: ScheduleName = "polynomial"
    warmup: float = Field(0.1, ge=0, le=1)
    decay: float = Field(0.3, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    accumulation: int = Field(1, gt=0)
    precision: str = "no"
    seed: int = 0
    evaluate_every: int = Field(200, gt=0)
    checkpoint_every: int = Field(200, gt=0)
    log_every: int = Field(1, gt=0)
    tensorboard: bool = True


class Task(Protocol):
    """What the loop trains. `losses` returns scalars of which `loss` is minimised."""

    @property
    def module(self) -> nn.Module: ...
    def batch(self, number: int) -> Any: ...
    def losses(self, batch: Any, module: nn.Module, step: int) -> dict[str, Tensor]: ...
    def size(self, batch: Any) -> int: ...
    def evaluate(self, step: int) -> dict[str, float]: ...


class RunFolder:
    """A run's output: `log.jsonl` (one line a step), `state/` (the newest checkpoint), `tensorboard/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.log = path / "log.jsonl"

    def begin(self, resume: bool, recipe: dict[str, Any]) -> int:
        """Prepare the folder and return the step to start at. Without `resume` an older run is never overwritten."""
        recipe_file = self.path / "recipe.json"
        if not resume and self.log.exists():
            raise ConfigError(f"{self.path} already holds a run; pass --resume to go on, or choose another output folder")
        self.path.mkdir(parents=True, exist_ok=True)
        recipe_file.write_text(json.dumps(recipe, indent=2) + "\n")
        if not self.state.exists():
            self.log.unlink(missing_ok=True)
            return 0
        step = json.loads((self.state / "progress.json").read_text())["step"]
        lines = [line for line in self.log.read_text().splitlines() if line.endswith("}")] if self.log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.log.write_text("".join(line + "\n" for line in kept))
        return step

    def append(self, record: dict[str, Any]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")


def fit(
    task: Task,
    settings: LoopSettings,
    output: Path,
    *,
    resume: bool = False,
    recipe: dict[str, Any] | None = None,
    export: Callable[[Path], None] | None = None,
    cpu: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """Train `task.module` for `settings.steps` optimizer steps and return the last evaluation.

    output: run folder. export: called with a temporary folder at every checkpoint; what it writes becomes
    `output/model`. Raises ConfigError if the folder holds another run and `resume` is false, CheckpointError if the
    loss stops being finite.
    """
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=cpu or not torch.cuda.is_available())
    set_seed(settings.seed)
    folder = RunFolder(output)
    start = folder.begin(resume, recipe or {})
    optimizer = build_optimizer(
        task.module,
        settings.optimizer,
        lr=settings.lr,
        matrix_lr=settings.matrix_lr,
        weight_decay=settings.weight_decay,
    )
    schedule = build_schedule(optimizer, settings.schedule, steps=settings.steps, warmup=settings.warmup, decay=settings.decay)
    module, optimizer = accelerator.prepare(task.module, optimizer)
    accelerator.register_for_checkpointing(schedule)
    if start:
        accelerator.load_state(str(folder.state))
    writer = _tensorboard(output) if settings.tensorboard else None

    def checkpoint(step: int) -> None:
        with replace_folder(folder.state) as temporary:
            accelerator.save_state(str(temporary))
            (temporary / "progress.json").write_text(json.dumps({"step": step}))
        if export:
            with replace_folder(output / "model") as temporary:
                export(temporary)

    evaluation: dict[str, float] = {}
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet) as progress:
        bar = progress.add_task("starting", total=settings.steps, completed=start)
        for step in range(start + 1, settings.steps + 1):
            began, examples = time.perf_counter(), 0
            sums: dict[str, float] = {}
            for part in range(settings.accumulation):
                batch = task.batch((step - 1) * settings.accumulation + part)
                with accelerator.autocast():
                    losses = task.losses(batch, module, step)
                accelerator.backward(losses["loss"] / settings.accumulation)
                examples += task.size(batch)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / settings.accumulation
            if not math.isfinite(sums["loss"]):
                raise CheckpointError(
                    f"the loss became {sums['loss']} at step {step}; resume from the last checkpoint with a lower learning rate"
                )
            norm = accelerator.clip_grad_norm_(module.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            rate = examples / (time.perf_counter() - began)
            record: dict[str, Any] = {"step": step, **sums, "gradient_norm": float(norm or 0.0)}
            record |= {"lr": schedule.get_last_lr()[0], "examples_per_second": rate}
            if step % settings.evaluate_every == 0 or step == settings.steps:
                evaluation = task.evaluate(step)
                record |= evaluation
            if step % settings.log_every == 0 or evaluation.keys() & record.keys():
                folder.append(record)
                if writer:
                    for name, value in record.items():
                        writer.add_scalar(name, value, step)
            described = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
            progress.update(bar, completed=step, description=f"{described}  {rate:.1f} examples/s")
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                checkpoint(step)
    if writer:
        writer.close()
    return evaluation


def _tensorboard(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed; install distilledprag[train] or set tensorboard: false") from error
    return SummaryWriter(str(output / "tensorboard"))
