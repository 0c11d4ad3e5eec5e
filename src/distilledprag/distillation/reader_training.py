"""Trains the reader of a base: one LoRA, in one run, that first reads plain prompts and then also written states.

    B = batch rows   T = tokens of a row   D = hidden size   U = width of the MLP   N = document tokens   K = answer tokens

    share of the run   what is trained                           losses
    0.00 - 0.35        LoRA on all layers                        L_gen on plain RAG (the teacher)
    0.35 - 0.60        the same                                  + exact states after `layer`: L_gen, L_KL to the teacher
    0.60 - 1.00        layers above `plain_layer`, and A         + plain PEFT states after `plain_layer`: the same two
                       (masks and A are computed at 0.60)

L_gen and L_KL are the paper's, the teacher being the same LLM on the plain prompt. A run is bounded by time, so that it fits a
lent machine, or by steps. It resumes from its last checkpoint with the same batches, weights and optimizer state as if it had
not stopped.

Needs torch, transformers, safetensors and jinja2 only (see scripts/train_reader.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilledprag.base.architecture import (
    changed_layer_output,
    decoder_layers,
    down_projection,
    embedding_table,
    hidden_after,
    hidden_states,
    logits_of,
)
from distilledprag.base.masks import add_mask_tokens, projection_inputs
from distilledprag.base.prepared import MASKS
from distilledprag.base.reader import CARD, READER, attach, factors, load_factors, load_tensors, save_tensors
from distilledprag.distillation.contexts import ContextMixer, data_hash, load_contexts
from distilledprag.distillation.losses import generation_loss, kl_loss
from distilledprag.distillation.packing import PackedRows
from distilledprag.distillation.processes import training_processes
from distilledprag.distillation.reader_batches import ContextBatch, ContextBatches, ContextTokenizer
from distilledprag.distillation.run_folder import RunFolder
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.files import write_atomically
from distilledprag.lora.identity import mask_row_hash
from distilledprag.prompts import PromptBuilder

STATE = "state.pt"


@dataclass(frozen=True)
class ReaderSettings:
    """minutes: of training, all sittings together; steps: a number of steps in their place.

    batch_size x sequence_length: packed rows of a batch and their tokens. batches_per_step: learned together, and shared out
    among the processes. layer, plain_layer: after which states are written, on the exact and on the plain PEFT path. masks: how
    many numbered masks the base gets. final_learning_rate: the rate at the end, as a share of the peak. states_from, plain_from:
    shares of the run (see above). moment_batches: batches that A is computed from. weights: how often contexts of a source are
    seen a pass (1 for sources not named).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    minutes: float = 9.0
    steps: int | None = None
    rank: int = 24
    layer: int = 16
    plain_layer: int = 8
    masks: int = 512
    batch_size: int = 24
    batches_per_step: int = 1
    sequence_length: int = 1024
    questions_per_context: int = 6
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.03
    warmup_steps: int = 30
    max_grad_norm: float = 1.0
    kl_weight: float = 0.5
    states_from: float = 0.35
    plain_from: float = 0.6
    checkpoint_minutes: float = 3.0
    moment_batches: int = 8
    seed: int = 0
    weights: tuple[tuple[str, float], ...] = (
        ("hotpotqa_train", 3.0),
        ("hotpotqa_train_evidence", 2.0),
        ("2wiki_train", 4.0),
        ("musique_train", 3.0),
        ("boolq_train", 2.0),
        ("strategyqa_facts_train", 1.0),
        ("nq_qed_train", 1.5),
        ("fairytaleqa_train", 0.7),
        ("squad_train_detok", 0.7),
    )


class ReaderTraining:
    """One run in a folder. `model`: a plain causal LM in bfloat16 on its device, changed in place (tokens, LoRA).

    The folder holds `reader.safetensors`, `masks.safetensors` and `training.json` (what `prepare-base` merges), `log.jsonl` and
    `state/` (for resuming).
    """

    def __init__(self, model: Any, tokenizer: Any, data: Sequence[Path], folder: Path, settings: ReaderSettings) -> None:
        if not data:
            raise ConfigError("no training files; name .jsonl or .jsonl.gz files, or a folder of them")
        self.settings, self.folder, self.data = settings, folder, list(data)
        if not 0 <= settings.plain_layer < settings.layer < len(decoder_layers(model)):
            raise ConfigError(f"layers must be 0 <= plain_layer < layer < {len(decoder_layers(model))}")
        self.tokens = add_mask_tokens(model, tokenizer, settings.masks)
        model.requires_grad_(False).train(False)
        self.model, self.device = model, model.device
        self.lora = attach(model, settings.rank, settings.seed)
        self.prompts = PromptBuilder(tokenizer, self.tokens.mask_id)
        contexts = [context for path in self.data for context in load_contexts(path)]
        if not contexts:
            raise InputError(f"{', '.join(map(str, self.data))}: no question with an answer to train on")
        self.contexts = len(contexts)
        questions = settings.questions_per_context
        workers = max(1, min(8, (os.cpu_count() or 1) - 2)) if self.device.type == "cuda" else 1
        self.batches = ContextBatches(
            ContextMixer(contexts, settings.seed, dict(settings.weights), questions_per_context=questions),
            ContextTokenizer(self.prompts, longest=settings.sequence_length, most_masks=settings.masks),
            rows=settings.batch_size,
            length=settings.sequence_length,
            mask_id=self.tokens.mask_id,
            padding=self.prompts.end_of_turn_id,
            streams=workers,
        )
        self._everyone = training_processes()
        self._own = self._everyone.own(settings.batches_per_step, "training.batches_per_step")
        self.a: nn.Parameter | None = None
        self.step = self.contexts_seen = 0
        self.elapsed = 0.0
        lora = [parameter for module in self.lora.values() for parameter in (module.a, module.b)]
        self.optimizer = torch.optim.AdamW(lora, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        settings = self.settings
        return self.step / settings.steps if settings.steps else self.elapsed / (settings.minutes * 60)

    def run(self, resume: bool = False) -> None:
        """Train to the end; a checkpoint every few minutes and at the end.

        Raises ConfigError when the folder holds a run and `resume` is false, or one with other settings or data.
        """
        folder = RunFolder(self.folder, self._identity(), resume)
        with folder if self._everyone.is_first else contextlib.nullcontext():
            folder.step = self._everyone.told(folder.step)
            if folder.step:
                self._resume(folder)
            self._everyone.copy_from_first(parameter for module in self.lora.values() for parameter in (module.a, module.b))
            self._train(folder)

    def _train(self, folder: RunFolder) -> None:
        batches = self.batches.draw()
        last, saved = time.perf_counter(), self.elapsed
        while self.share < 1:
            share = self.share
            if share >= self.settings.plain_from and self.a is None:
                self._add_plain(batches)
            drawn = [next(batches) for _ in range(self.settings.batches_per_step)]  # all, so that every process counts alike
            losses = self._train_step(drawn, share)
            now = time.perf_counter()
            seconds, last = now - last, now
            self.elapsed = self._everyone.told(self.elapsed + seconds)
            if self._everyone.is_first and (self.step % 10 == 0 or self.step == 1):
                record = self._record(losses, seconds, sum(batch.contexts for batch in drawn))
                folder.append(record)
                print(json.dumps(record), flush=True)
            if self.elapsed - saved > self.settings.checkpoint_minutes * 60:
                saved = self.elapsed
                self.save(folder)
        self.save(folder)

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run that began."""
        mask_row = mask_row_hash(embedding_table(self.model)[self.tokens.mask_id])
        settings = asdict(self.settings)
        if self.settings.batches_per_step == 1:  # runs that were begun before there was such a setting go on
            del settings["batches_per_step"]
        return {"base": mask_row, "data": data_hash(self.data), "training": settings}

    def _record(self, losses: dict[str, float], seconds: float, contexts: int) -> dict[str, float]:
        """Each path's terms, and their sums over the paths. (This stage has no cosine term.)"""
        generation = sum(value for name, value in losses.items() if name.startswith("loss_"))
        kl = sum(value for name, value in losses.items() if name.startswith("kl_"))
        total = generation + self.settings.kl_weight * kl
        sums = {"loss": total, "loss_generation": generation, "loss_cosine": 0.0, "loss_kl": kl}
        record: dict[str, float] = {"step": self.step, "minutes": round(self.elapsed / 60, 3), "contexts": self.contexts_seen}
        record |= {name: round(value, 4) for name, value in (sums | losses).items()}
        record |= {"step_seconds": round(seconds, 3), "examples_per_second": round(contexts / seconds, 2)}
        return record

    def _train_step(self, batches: Sequence[ContextBatch], share: float) -> dict[str, float]:
        """One optimizer step on the mean loss of `batches`, of which this process learns its own. Returns the mean losses."""
        settings = self.settings
        rate = min(1.0, (self.step + 1) / settings.warmup_steps) * (1 - (1 - settings.final_learning_rate) * share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("peak_lr", settings.learning_rate)
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        for number in self._own:
            for name, value in self._learn(batches[number].to(self.device), share).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(batches)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._everyone.add_gradients(parameters)
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if len(batches) > 1:
            for parameter in trained:
                parameter.grad /= len(batches)
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.contexts_seen += sum(batch.contexts for batch in batches)
        return self._everyone.added(sums)

    def _learn(self, batch: ContextBatch, share: float) -> dict[str, Tensor]:
        """Forward and backward of a batch on every path that there is at this share of the run."""
        settings = self.settings
        hidden = hidden_states(self.model, **batch.teacher.inputs(self.model.dtype))
        teacher, labels = self._answers(hidden, batch.teacher)
        loss = generation_loss(teacher, labels)
        loss.backward()
        losses = {"loss_plain": loss.detach()}
        target = teacher.detach()
        layers = [settings.layer] if share >= settings.states_from else []
        if self.a is not None:
            layers.append(settings.plain_layer)
        if layers:
            # The encoder's graph serves the exact path; the plain path's states come from frozen layers.
            states = hidden_after(self.model, layers, **batch.encoder.inputs(self.model.dtype))
            flat = {layer: hidden.flatten(0, 1)[batch.sources] for layer, hidden in states.items()}
            losses |= self._exact_student(batch, target, flat[settings.layer])
            if self.a is not None:
                losses |= self._plain_student(batch, target, flat[settings.plain_layer].detach())
        return losses

    def _exact_student(self, batch: ContextBatch, target: Tensor, states: Tensor) -> dict[str, Tensor]:
        """Each mask position gets its token's state: states (N, D)."""

        def write(hidden: Tensor) -> Tensor:
            return hidden.flatten(0, 1).index_copy(0, batch.targets, states).view_as(hidden)

        return self._student(batch.student, target, "exact", write, self.settings.layer)

    def _plain_student(self, batch: ContextBatch, target: Tensor, states: Tensor) -> dict[str, Tensor]:
        """The plain PEFT path: numbered masks, A applied to every token of the context, B = wanted - present."""
        layer, student = self.settings.plain_layer, batch.student
        ids = student.ids.flatten().index_put((batch.targets,), self.tokens.numbered[0] + batch.numbers).view_as(student.ids)
        rows, length = student.ids.shape
        assert self.a is not None
        weight = self.a.to(states.dtype)
        same = student.owners[:, :, None] == student.owners[:, None, :]
        # A's row for every mask position, zero elsewhere: (B, T, U).
        chosen = torch.zeros(rows * length, weight.shape[1], dtype=weight.dtype, device=weight.device)
        chosen = chosen.index_copy(0, batch.targets, weight[batch.numbers]).view(rows, length, -1)
        found: list[Tensor] = []

        def write(hidden: Tensor) -> Tensor:
            present = hidden.flatten(0, 1)
            wanted = torch.zeros_like(present).index_copy(0, batch.targets, states - present[batch.targets])
            scores = (found[-1] @ chosen.mT) * same
            return hidden + scores @ wanted.view_as(hidden)

        handle = down_projection(self.model, layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            return self._student(replace(student, ids=ids), target, "peft", write, layer)
        finally:
            handle.remove()

    def _student(
        self, rows: PackedRows, target: Tensor, name: str, change: Callable[[Tensor], Tensor], layer: int
    ) -> dict[str, Tensor]:
        """Forward and backward of the masked prompts, `change` writing the states. target: the teacher's logits (K, V)."""
        with changed_layer_output(self.model, layer, change):
            hidden = hidden_states(self.model, **rows.inputs(self.model.dtype))
        logits, labels = self._answers(hidden, rows)
        loss, kl = generation_loss(logits, labels), kl_loss(logits, target, temperature=1.0)
        (loss + self.settings.kl_weight * kl).backward()
        return {f"loss_{name}": loss.detach(), f"kl_{name}": kl.detach()}

    def _answers(self, hidden: Tensor, rows: PackedRows) -> tuple[Tensor, Tensor]:
        """Logits (K, V) float32 and labels (K,) at answer tokens."""
        chosen = rows.is_supervised
        return logits_of(self.model, hidden[chosen]), rows.labels[chosen]

    def _add_plain(self, batches: Iterator[ContextBatch]) -> None:
        """Masks and A for the plain path: layers 0..plain_layer are frozen from here on."""
        settings = self.settings
        self._freeze_lower_layers()
        moment = torch.stack([self._ordinary(next(batches)) for _ in range(settings.moment_batches)]).mean(0)
        opening = self.prompts.context(["."]).masked_ids[:-1]
        embeddings, a = self.tokens.optimise(self.model, settings.plain_layer, opening, moment)
        self._everyone.copy_from_first([embeddings, a])
        self._set_plain(embeddings, a)

    def _freeze_lower_layers(self) -> None:
        for path, module in self.lora.items():
            if int(path.split(".")[1]) <= self.settings.plain_layer:
                module.requires_grad_(False)
                module.a.grad = module.b.grad = None

    def _ordinary(self, batch: ContextBatch) -> Tensor:
        """C over the tokens of masked prompts that are no masks, answers counted tenfold: (U, U)."""
        rows = batch.student.to(self.device)
        with torch.no_grad():
            x = projection_inputs(self.model, self.settings.plain_layer, **rows.inputs(self.model.dtype)).float()
        weight = rows.is_token.float() * (rows.ids != self.tokens.mask_id) * (1 + 9 * rows.is_supervised.float())
        weight = weight * (rows.positions > 0)
        return (x * weight[..., None]).flatten(0, 1).T @ x.flatten(0, 1) / weight.sum()

    def _set_plain(self, embeddings: Tensor, a: Tensor) -> None:
        self.tokens.write(self.model, embeddings)
        self.a = nn.Parameter(a.clone())
        rate = 0.005 * float(a.std())
        self.optimizer.add_param_group({"params": [self.a], "lr": rate, "peak_lr": rate, "weight_decay": 0.0})

    def _numbered_embeddings(self) -> Tensor:
        return embedding_table(self.model)[self.tokens.numbered].clone()

    def save(self, run: RunFolder) -> None:
        """What `prepare-base` merges, each file whole or not at all, and then the checkpoint."""
        if not self._everyone.is_first:
            return
        save_tensors(self.folder / READER, factors(self.lora))
        if self.a is not None:
            save_tensors(self.folder / MASKS, {"embeddings": self._numbered_embeddings(), "a": self.a})
        card: dict[str, Any] = {
            "settings": asdict(self.settings),
            "data": [path.name for path in self.data],
            "data_hash": data_hash(self.data),
            "steps": self.step,
            "contexts_seen": self.contexts_seen,
            "contexts": self.contexts,
            "minutes": round(self.elapsed / 60, 2),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
        }
        write_atomically(self.folder / CARD, json.dumps(card, indent=2) + "\n")
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "lora": factors(self.lora),
            "step": self.step,
            "contexts_seen": self.contexts_seen,
            "elapsed": self.elapsed,
            "batches": self.batches.state_dict(),
        }
        if self.a is not None:
            state |= {"a": self.a.detach(), "embeddings": self._numbered_embeddings()}
        with run.checkpoint(self.step) as folder:
            torch.save(state, folder / STATE)

    def _resume(self, run: RunFolder) -> None:
        """Go on from the run's checkpoint. Raises CheckpointError when it cannot be loaded."""
        path = run.state / STATE
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            load_factors(self.lora, state["lora"])
            self.step, self.contexts_seen, self.elapsed = state["step"], state["contexts_seen"], state["elapsed"]
            self.batches.load_state_dict(state["batches"])
            if "a" in state:
                self._freeze_lower_layers()
                self._set_plain(state["embeddings"], state["a"])
            self.optimizer.load_state_dict(state["optimizer"])
        except CheckpointError:
            raise
        except Exception as error:  # torch and pickle raise errors of every kind
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(
                f"the checkpoint {path} cannot be loaded ({reason}); restore it from a copy, or delete {path.parent} to begin "
                "the run again"
            ) from error

    def start_from(self, folder: Path) -> None:
        """Take the LoRA that another run saved as the start."""
        load_factors(self.lora, load_tensors(folder / READER))


def train_reader(
    base: str | Path,
    data: Sequence[Path],
    folder: Path,
    settings: ReaderSettings,
    *,
    device: str = "cpu",
    start_from: Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> ReaderTraining:
    """Train in `folder`, from the base as it comes. data: files, or folders of .jsonl and .jsonl.gz files.

    Raises ConfigError for no data, layers that do not exist, and a folder with another run; InputError and CheckpointError for
    files that cannot be used.
    """
    files = sorted(file for path in data for file in (path.glob("*.jsonl*") if path.is_dir() else [path]))
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16)
    training = ReaderTraining(model.to(device), tokenizer, files, folder, settings)
    say(f"{training.contexts} contexts of {len(files)} files, on {device}")
    if start_from:
        training.start_from(start_from)
    training.run(resume)
    return training
