"""Trains what ships for a base: the reader, and the joint stage that lets it read written states. One LoRA, one run.

    share of the run   what is trained                           losses
    0.00 - 0.35        LoRA on all layers                        cross-entropy on plain RAG (the teacher)
    0.35 - 0.60        the same                                  + exact states after `layer`: cross-entropy, KL to the teacher
    0.60 - 1.00        layers above `plain_layer`, and A         + plain PEFT states after `plain_layer`: the same two
                       (masks and A are computed at 0.60)

Losses: cross-entropy on answer tokens, and KL(teacher || student) there (the paper's L_gen and L_KL, its teacher being
the same LLM on the plain prompt). The run is bounded by time, so that it fits a lease; it resumes from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilledprag.base import numbered_masks
from distilledprag.base.architecture import (
    changed_layer_output,
    decoder_layers,
    down_projection,
    embedding_table,
    hidden_after,
    hidden_states,
    logits_of,
)
from distilledprag.base.numbered_masks import add_mask_tokens
from distilledprag.base.reader import load_tensors, save_tensors
from distilledprag.distillation.examples import Context, ContextMixer, data_hash, load_contexts
from distilledprag.distillation.lora_training import attach, factors, load_factors
from distilledprag.distillation.packing import IGNORED, ContextTokenizer, PackedBatch, PackedRows, packed_batches
from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically
from distilledprag.prompts import PromptBuilder

READER, MASKS, STATE, LOG, CARD = "reader.safetensors", "masks.safetensors", "state.pt", "log.jsonl", "training.json"


@dataclass(frozen=True)
class JointSettings:
    """minutes: of training, all sittings together. rows x length: tokens of a batch. kl: weight of the KL term.

    weights: how often contexts of a source are seen a pass (1 for sources not named).
    """

    minutes: float = 9.0
    rank: int = 24
    layer: int = 16
    plain_layer: int = 8
    masks: int = 512
    rows: int = 24
    length: int = 1024
    questions: int = 6
    learning_rate: float = 1e-3
    final_share: float = 0.03
    warmup: int = 30
    kl: float = 0.5
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


class JointTraining:
    """One run in a folder. `model`: a plain causal LM in bfloat16 on its device, changed in place (tokens, LoRA)."""

    def __init__(self, model: Any, tokenizer: Any, data: Sequence[Path], folder: Path, settings: JointSettings) -> None:
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
        self.contexts = len(contexts)
        dataset = _Batches(contexts, settings, self.prompts, self.tokens.mask_id)
        workers = max(1, min(8, (os.cpu_count() or 1) - 2)) if self.device.type == "cuda" else 0
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
        self._batches = iter(loader)
        self.a: nn.Parameter | None = None
        self.step = self.seen = 0
        self.elapsed = 0.0
        self.optimizer = torch.optim.AdamW(
            self._lora_parameters(), lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
        )
        folder.mkdir(parents=True, exist_ok=True)

    def _lora_parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.lora.values() for parameter in (module.a, module.b)]

    def run(self) -> None:
        """Train until the time is used up; a checkpoint every few minutes and at the end."""
        settings = self.settings
        last, saved = time.perf_counter(), self.elapsed
        log = (self.folder / LOG).open("a", encoding="utf-8")
        while self.elapsed < settings.minutes * 60:
            share = self.elapsed / (settings.minutes * 60)
            if share >= settings.plain_from and self.a is None:
                self._add_plain()
            batch = next(self._batches).to(self.device)
            contexts = batch.contexts
            losses = self._train_step(batch, share)
            now = time.perf_counter()
            self.elapsed, seconds, last = self.elapsed + now - last, now - last, now
            if self.step % 10 == 0 or self.step == 1:
                row = {
                    "step": self.step,
                    "minutes": round(self.elapsed / 60, 3),
                    "contexts": self.seen,
                    "step_seconds": round(seconds, 3),
                }
                row |= self._summed(losses) | {"examples_per_second": round(contexts / seconds, 2)}
                log.write(json.dumps(row) + "\n")
                log.flush()
                print(json.dumps(row), flush=True)
            if self.elapsed - saved > settings.checkpoint_minutes * 60:
                saved = self.elapsed
                self.save()
        self.save()
        log.close()

    def _summed(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Each path's terms, and their sums over the paths. (This stage has no cosine term.)"""
        parts = {name: float(value) for name, value in losses.items()}
        generation = sum(value for name, value in parts.items() if name.startswith("loss_"))
        kl = sum(value for name, value in parts.items() if name.startswith("kl_"))
        sums = {"loss": generation + self.settings.kl * kl, "loss_generation": generation, "loss_cosine": 0.0, "loss_kl": kl}
        return {name: round(value, 4) for name, value in (sums | parts).items()}

    def _train_step(self, batch: PackedBatch, share: float) -> dict[str, Tensor]:
        settings = self.settings
        rate = min(1.0, (self.step + 1) / settings.warmup) * (1 - (1 - settings.final_share) * share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("base_lr", settings.learning_rate)
        self.optimizer.zero_grad()
        hidden = hidden_states(self.model, **self._inputs(batch.teacher))
        teacher, labels = self._answers(hidden, batch.teacher)
        loss = functional.cross_entropy(teacher, labels)
        loss.backward()
        losses = {"loss_plain": loss.detach()}
        target = teacher.detach().log_softmax(-1)
        layers = [settings.layer] if share >= settings.states_from else []
        if self.a is not None:
            layers.append(settings.plain_layer)
        if layers:
            # The encoder's graph serves the exact path; the plain path's states come from frozen layers.
            states = hidden_after(self.model, layers, **self._inputs(batch.encoder))
            flat = {layer: hidden.flatten(0, 1)[batch.sources] for layer, hidden in states.items()}
            losses |= self._student(batch, target, "exact", _write(batch, flat[settings.layer]), settings.layer)
            if self.a is not None:
                losses |= self._plain_student(batch, target, flat[settings.plain_layer].detach())
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None], 1.0)
        self.optimizer.step()
        self.step += 1
        self.seen += batch.contexts
        return losses

    def _student(self, batch: PackedBatch, target: Tensor, name: str, change: Any, layer: int) -> dict[str, Tensor]:
        with changed_layer_output(self.model, layer, change):
            hidden = hidden_states(self.model, **self._inputs(batch.student))
        logits, labels = self._answers(hidden, batch.student)
        loss = functional.cross_entropy(logits, labels)
        kl = functional.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="batchmean")
        (loss + self.settings.kl * kl).backward()
        return {f"loss_{name}": loss.detach(), f"kl_{name}": kl.detach()}

    def _plain_student(self, batch: PackedBatch, target: Tensor, states: Tensor) -> dict[str, Tensor]:
        """The plain PEFT path: numbered masks, A applied to every token of the context, B = wanted - present."""
        layer, found = self.settings.plain_layer, []
        student = batch.student
        ids = student.ids.flatten().index_put((batch.targets,), self.tokens.numbered[0] + batch.numbers).view_as(student.ids)
        numbered = PackedBatch(
            batch.teacher,
            PackedRows(ids, student.positions, student.owners, student.segments, student.labels),
            batch.encoder,
            batch.sources,
            batch.targets,
            batch.numbers,
            batch.contexts,
        )
        rows, length = student.ids.shape
        assert self.a is not None
        weight = self.a.to(states.dtype)
        same = student.owners[:, :, None] == student.owners[:, None, :]
        # A's row for every mask position, zero elsewhere: (R, T, U).
        chosen = torch.zeros(rows * length, weight.shape[1], dtype=weight.dtype, device=weight.device)
        chosen = chosen.index_copy(0, batch.targets, weight[batch.numbers]).view(rows, length, -1)

        def write(hidden: Tensor) -> Tensor:
            wanted = (
                torch.zeros_like(hidden).flatten(0, 1).index_copy(0, batch.targets, states - hidden.flatten(0, 1)[batch.targets])
            )
            scores = (found[-1] @ chosen.mT) * same
            return hidden + scores @ wanted.view_as(hidden)

        handle = down_projection(self.model, layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            return self._student(numbered, target, "peft", write, layer)
        finally:
            handle.remove()

    def _inputs(self, rows: PackedRows) -> dict[str, Tensor]:
        return {"input_ids": rows.ids, "position_ids": rows.positions, "attention_mask": rows.attention(self.model.dtype)}

    def _answers(self, hidden: Tensor, rows: PackedRows) -> tuple[Tensor, Tensor]:
        """Logits (K, V) float32 and labels (K,) at answer tokens."""
        chosen = rows.labels != IGNORED
        return logits_of(self.model, hidden[chosen]), rows.labels[chosen]

    def _add_plain(self) -> None:
        """Masks and A for the plain path: layers 0..plain_layer are frozen from here on."""
        settings = self.settings
        for path, module in self.lora.items():
            if int(path.split(".")[1]) <= settings.plain_layer:
                module.requires_grad_(False)
        moment = torch.stack([self._ordinary(next(self._batches)) for _ in range(settings.moment_batches)]).mean(0)
        embeddings, a = self.tokens.optimise(self.model, settings.plain_layer, self._opening(), moment)
        self._set_plain(embeddings, a)

    def _opening(self) -> list[int]:
        return self.prompts.context(["."]).masked_ids[:-1]

    def _ordinary(self, batch: PackedBatch) -> Tensor:
        """C over the tokens of masked prompts that are no masks, answers counted tenfold."""
        rows = batch.student.to(self.device)
        with torch.no_grad():
            x = numbered_masks.projection_inputs(self.model, self.settings.plain_layer, **self._inputs(rows)).float()
        weight = (rows.owners >= 0).float() * (rows.ids != self.tokens.mask_id) * (1 + 9 * (rows.labels != IGNORED).float())
        weight = weight * (rows.positions > 0)
        return (x * weight[..., None]).flatten(0, 1).T @ x.flatten(0, 1) / weight.sum()

    def _set_plain(self, embeddings: Tensor, a: Tensor) -> None:
        self.tokens.write(self.model, embeddings)
        self.a = nn.Parameter(a.clone())
        rate = 0.005 * float(a.std())
        self.optimizer.add_param_group({"params": [self.a], "lr": rate, "base_lr": rate, "weight_decay": 0.0})

    def save(self) -> None:
        """Weights, optimiser and counters; each file whole or not at all."""
        save_tensors(self.folder / READER, factors(self.lora))
        if self.a is not None:
            table = embedding_table(self.model)
            save_tensors(self.folder / MASKS, {"embeddings": table[self.tokens.numbered], "a": self.a}, torch.float16)
        card = {"settings": asdict(self.settings), "data": [path.name for path in self.data], "data_hash": data_hash(self.data)}
        card |= {
            "steps": self.step,
            "contexts_seen": self.seen,
            "contexts": self.contexts,
            "minutes": round(self.elapsed / 60, 2),
        }
        card |= {"torch": torch.__version__, "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"}
        write_atomically(self.folder / CARD, json.dumps(card, indent=2) + "\n")
        state = {"optimizer": self.optimizer.state_dict(), "step": self.step, "seen": self.seen, "elapsed": self.elapsed}
        state |= {"lora": factors(self.lora)}
        if self.a is not None:
            state |= {"a": self.a.detach(), "embeddings": embedding_table(self.model)[self.tokens.numbered].clone()}
        temporary = self.folder / f".{STATE}"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / STATE)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False when there is none. The data's order starts anew."""
        path = self.folder / STATE
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        load_factors(self.lora, state["lora"])
        self.step, self.seen, self.elapsed = state["step"], state["seen"], state["elapsed"]
        if "a" in state:
            for lora_path, module in self.lora.items():
                if int(lora_path.split(".")[1]) <= self.settings.plain_layer:
                    module.requires_grad_(False)
            self._set_plain(state["embeddings"], state["a"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def start_from(self, folder: Path) -> None:
        """Take the LoRA that another run saved as the start."""
        load_factors(self.lora, load_tensors(folder / READER))


def _write(batch: PackedBatch, states: Tensor) -> Any:
    """Exact states: each mask position gets its token's state."""

    def write(hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1).index_copy(0, batch.targets, states).view_as(hidden)

    return write


class _Batches(IterableDataset):
    """Packed batches for ever; workers of a data loader draw with seeds of their own."""

    def __init__(self, contexts: list[Context], settings: JointSettings, prompts: PromptBuilder, mask_id: int) -> None:
        self._contexts, self._settings, self._prompts, self._mask_id = contexts, settings, prompts, mask_id

    def __iter__(self) -> Iterator[PackedBatch]:
        worker, settings = get_worker_info(), self._settings
        seed = settings.seed * 1000 + (worker.id if worker else 0)
        mixer = ContextMixer(self._contexts, seed, dict(settings.weights), questions=settings.questions)
        tokenize = ContextTokenizer(self._prompts, longest=settings.length, most_masks=settings.masks, seed=seed)
        return packed_batches(
            map(tokenize, iter(mixer)),
            rows=settings.rows,
            length=settings.length,
            mask_id=self._mask_id,
            padding=self._prompts.end_of_turn_id,
        )


def train_reader(
    base: str | Path,
    data: Sequence[Path],
    folder: Path,
    settings: JointSettings,
    *,
    device: str = "cpu",
    start_from: Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> JointTraining:
    """Train in `folder`, from the base as it comes. data: files, or folders of .jsonl and .jsonl.gz files.

    Raises ConfigError for no data or layers that do not exist, InputError and CheckpointError for files that cannot be used.
    """
    files = sorted(file for path in data for file in (path.glob("*.jsonl*") if path.is_dir() else [path]))
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16).to(device)
    training = JointTraining(model, tokenizer, files, folder, settings)
    say(f"{training.contexts} contexts of {len(files)} files, on {device}")
    if start_from:
        training.start_from(start_from)
    if resume and training.resume():
        say(f"resumed at step {training.step}")
    training.run()
    return training
