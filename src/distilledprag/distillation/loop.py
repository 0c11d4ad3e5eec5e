"""The training loop of generators and of DyPRAG's translator.

A `Task` says what is trained and on what; the loop does gradient accumulation, clipping, the schedule, checkpoints, resume, logs.
A batch is a pure function of its number, and so is what is drawn while it is learned, so a run that was killed and resumed writes
the same losses as one that was not, and a run in several processes (`processes.py`) those of one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from distilledprag.base.llm import chosen_device
from distilledprag.distillation.optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedule
from distilledprag.distillation.processes import Processes, training_processes
from distilledprag.distillation.run_folder import RunFolder
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder

# YAML reads a bare `no` as false.
Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]


class LoopSettings(BaseModel):
    """How to train. A step learns `gradient_accumulation_steps` batches, shared out among the processes. Learning rates are
    peaks; `warmup_ratio` and `decay_ratio` are shares of `steps`; `matrix_learning_rate` is Muon's; `betas` AdamW's;
    `max_grad_norm` None: gradients are not clipped."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    matrix_learning_rate: float = Field(0.02, gt=0)
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    schedule: ScheduleName = "polynomial"
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    decay_ratio: float = Field(0.3, ge=0, le=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    precision: Precision = "no"
    seed: int = 0
    evaluate_every: int = Field(200, gt=0)
    checkpoint_every: int = Field(200, gt=0)
    log_every: int = Field(1, gt=0)
    tensorboard: bool = True


class SharedLoopSettings(LoopSettings):
    """For what can be trained on a base that no GPU holds whole. shard_base: share its layers out among the processes
    (`sharded_base.py`)."""

    shard_base: bool = False


class Task(Protocol):
    """What the loop trains; of what `losses` returns, `loss` is minimised."""

    @property
    def module(self) -> nn.Module:
        """What is trained; its parameters that require a gradient."""

    def batch(self, number: int) -> Any:
        """Batch `number` (from 0), the same one every time."""

    def losses(self, batch: Any, module: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its parts, scalars. module: `self.module`, wrapped for the device."""

    def size(self, batch: Any) -> int:
        """Examples in a batch."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Scores to log after `step` steps."""


def _check_precision(precision: str, on_gpu: bool) -> None:
    """Raises ConfigError where the device cannot compute in `precision`."""
    if precision == "fp16" and not on_gpu:
        raise ConfigError("training.precision fp16 needs a GPU; use bf16 or no")
    if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU does not compute in bf16; set training.precision to fp16 or no")


def fit(
    task: Task,
    settings: LoopSettings,
    output: Path,
    *,
    resume: bool = False,
    recipe: dict[str, Any] | None = None,
    export: Callable[[Path], object] | None = None,
    initialise: Callable[[], None] | None = None,
    cpu: bool = False,
    quiet: bool = False,
    together: bool = False,
) -> dict[str, float]:
    """Train `task.module` for `settings.steps` optimizer steps and return the last evaluation; nothing where no step was left.

    output: run folder. export: called with a temporary folder at every checkpoint, and for a run that has all its steps;
    what it writes becomes `output/model`. initialise: called before the first step of a run that begins. together: all processes
    evaluate, as they must where they share a base; else the first one does.
    Raises ConfigError if the folder holds another run (one of another recipe, if `resume` is true), for a precision that the
    device lacks and for batches that the processes cannot share out, CheckpointError if the loss stops being finite or the
    checkpoint to go on from is damaged.
    """
    on_gpu = chosen_device("cpu" if cpu else "auto") == "cuda"
    _check_precision(settings.precision, on_gpu)
    AcceleratorState._reset_state()  # else a second run in one process could have no other precision than the first
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=not on_gpu)
    set_seed(settings.seed)
    everyone = training_processes()
    own = everyone.own(settings.gradient_accumulation_steps, "training.gradient_accumulation_steps")
    folder = RunFolder(output, recipe or {}, resume)
    with folder if everyone.is_first else contextlib.nullcontext():
        folder.step = everyone.told(folder.step)
        if not folder.step and initialise:
            initialise()
        return _train(task, settings, folder, accelerator, export, quiet or not everyone.is_first, everyone, own, together)


def _train(
    task: Task,
    settings: LoopSettings,
    folder: RunFolder,
    accelerator: Accelerator,
    export: Callable[[Path], object] | None,
    quiet: bool,
    everyone: Processes,
    own: range,
    together: bool,
) -> dict[str, float]:
    """own: which of a step's batches this process learns."""
    start = folder.step
    optimizer = build_optimizer(
        task.module,
        settings.optimizer,
        lr=settings.learning_rate,
        matrix_lr=settings.matrix_learning_rate,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    schedule = build_schedule(
        optimizer,
        settings.schedule,
        steps=settings.steps,
        warmup_ratio=settings.warmup_ratio,
        decay_ratio=settings.decay_ratio,
    )
    module = accelerator.prepare_model(task.module, evaluation_mode=True)  # not wrapped: gradients are added up below
    optimizer = accelerator.prepare_optimizer(optimizer)
    accelerator.register_for_checkpointing(schedule)
    if start:
        _load(accelerator, folder.state)
    everyone.copy_from_first([*module.parameters(), *module.buffers()])
    writer = _tensorboard(folder.path) if settings.tensorboard and everyone.is_first else None

    def export_model() -> None:
        if export:
            with replace_folder(folder.model) as temporary:
                export(temporary)

    def checkpoint(step: int) -> None:
        """The model first: a run killed in between does the steps again, and never ends with the model of older ones."""
        if not everyone.is_first:
            return
        export_model()
        with folder.checkpoint(step) as temporary:
            accelerator.save_state(str(temporary))

    if start >= settings.steps and everyone.is_first:
        export_model()

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
            for part in own:
                number = (step - 1) * settings.gradient_accumulation_steps + part
                batch = task.batch(number)
                torch.manual_seed((settings.seed * 2**32 + number) % 2**63)  # what dropout leaves out is the same in any process
                with accelerator.autocast():
                    losses = task.losses(batch, module, step)
                accelerator.backward(losses["loss"] / settings.gradient_accumulation_steps)
                examples += task.size(batch)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / settings.gradient_accumulation_steps
            totals = everyone.added({**sums, "examples": examples})
            examples, sums = int(totals.pop("examples")), totals
            if not math.isfinite(sums["loss"]):
                raise CheckpointError(
                    f"the loss became {sums['loss']} at step {step}; resume from the last checkpoint with a lower learning rate"
                )
            everyone.add_gradients(module.parameters())
            norm = accelerator.clip_grad_norm_(module.parameters(), settings.max_grad_norm or math.inf)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            rate = examples / (time.perf_counter() - began)
            record: dict[str, Any] = {"step": step, **sums, "gradient_norm": float(norm or 0.0)}
            record |= {"learning_rate": schedule.get_last_lr()[0], "examples_per_second": rate}
            if step % settings.evaluate_every == 0 or step == settings.steps:
                evaluation = everyone.told(task.evaluate(step) if together or everyone.is_first else {})
                record |= evaluation
            if everyone.is_first and (step % settings.log_every == 0 or evaluation.keys() & record.keys()):
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


def _load(accelerator: Accelerator, state: Path) -> None:
    try:
        accelerator.load_state(str(state))
    except Exception as error:  # torch, safetensors and pickle raise errors of every kind
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"the checkpoint {state} cannot be loaded ({reason}); restore it from a copy, or delete it to begin the run again"
        ) from error


def _tensorboard(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed; install distilledprag[train] or set tensorboard: false") from error
    return SummaryWriter(str(output / "tensorboard"))
