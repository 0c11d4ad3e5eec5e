"""One training step of the paper's generator: ours against the algorithm as it is written down (arXiv 2509.01088).

    ours       several questions behind one context, the teacher's pass read for the documents' states too, two thin products for
               each module, logits at the answers only
    straight   one question a row; teacher and document encoder in passes of their own; B A of every sample as a dense matrix; a
               padded batch; logits of all positions

The same generator, losses, questions and base in both; examples are questions. Adapter memory: what the adapters of a step take
while student and gradients need them.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import medians, questions, ratio, side_by_side
from torch import Tensor, nn

from distilledprag.base.architecture import all_hidden_states, backbone, logits_of
from distilledprag.distillation.generator_training import DistillTask
from distilledprag.distillation.losses import cosine_loss, generation_loss, kl_loss
from distilledprag.distillation.pair_data import Batch, TrainingRow
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.generators import ParameterGenerator, build_generator
from distilledprag.generators.document_states import base_document_states
from distilledprag.generators.interface import mask_embedded_as, mask_row_of
from distilledprag.lora.weights import LoraBatch
from distilledprag.pipeline import DistilledPRAG

SETTINGS = {
    "architecture": "paper",
    "encoder": "base",
    "rank": 2,
    "alpha": 2,
    "projector_hidden": 512,
    "heads": 8,
    "dropout": 0.0,
}
QUESTIONS = 4  # behind a context


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Examples a second and adapter memory of both."""
    base, contexts = prag.base, 1 if quick else 2
    generator = build_generator(SETTINGS, base).to(base.device)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        task = DistillTask(base, generator, _recipe(Path(folder), contexts))
        rows = task.data.rows(0)
    packed = task.collate(rows)
    alone = [TrainingRow(row.passages, row.context, [pair]) for row in rows for pair in row.questions]
    batches = [task.collate(alone[begin : begin + 4]) for begin in range(0, len(alone), 4)]
    sizes: dict[str, int] = {}

    def ours(_: int) -> None:
        optimizer.zero_grad()
        task.losses(packed, generator, 1)["loss"].backward()
        optimizer.step()

    def straight(_: int) -> None:
        for batch in batches:
            optimizer.zero_grad()
            sizes["straight"] = _straight_step(task, generator, batch)
            optimizer.step()

    spent = side_by_side({"ours": ours, "straight": straight}, 1 if quick else 3)
    adapters = generator(task.read(packed)[1])
    sizes["ours"] = sum(a.nbytes + b.nbytes for a, b in adapters.modules.values())
    found = []
    for way, times in spent.items():
        seen = medians(times)
        found.append({
            "way": way, "examples": len(alone), "examples_per_second": round(len(alone) / seen["seconds"], 3),
            "adapter_bytes_an_adapter": sizes[way] // (contexts if way == "ours" else len(batches[0].passages)), **seen,
        })  # fmt: skip
    one = {row["way"]: row["adapter_bytes_an_adapter"] for row in found}
    ratios = {
        "examples a second, ours / straight": ratio(spent["straight"], spent["ours"]),
        "adapter memory, ours / straight": {"bytes": round(one["ours"] / one["straight"], 5)},
    }
    return {
        "rows": found, "growth": [], "ratios": ratios,
        "at_most": {"adapter memory, ours / straight": 0.333}, "at_least": {"examples a second, ours / straight": 3.0},
    }  # fmt: skip


def _recipe(folder: Path, contexts: int) -> DistillRecipe:
    """Contexts of one passage with four questions each, their answers made up where the passage has fewer."""
    file = folder / "pairs.jsonl"
    with file.open("w") as opened:
        for one in questions(contexts, 1):
            for number in range(QUESTIONS):
                row = {"documents": one.passages, "question": f"{one.question} ({number})", "answer": one.answers[0]}
                opened.write(json.dumps(row) + "\n")
    data = {"files": [file], "batch_size": contexts, "questions_per_context": QUESTIONS, "validation_share": 0.0}
    return DistillRecipe.model_validate({
        "output": folder / "run", "generator": SETTINGS, "data": data, "training": {"steps": 1},
        "losses": {"cosine_weight": 0.5, "kl_weight": 0.1, "temperature": 2.0, "cosine_positions": "all"},
    })  # fmt: skip


def _straight_step(task: DistillTask, generator: ParameterGenerator, batch: Batch) -> int:
    """Forward and backward; returns the bytes of the dense adapters."""
    model = task.base.model
    inputs = batch.teacher.inputs(model.dtype)
    with torch.no_grad():
        teacher = all_hidden_states(model, **inputs)
        teacher_logits = logits_of(model, teacher[-1])
        documents = base_document_states(task.base, task.prompts, batch.passages)
    adapters = generator(documents)
    held: list[int] = []
    with mask_embedded_as(task.base, mask_row_of(generator)), _dense(model, adapters, held):
        student = all_hidden_states(model, **batch.student.inputs(model.dtype))
        logits = logits_of(model, student[-1])
        where, tokens = batch.student.is_supervised, batch.student.is_token
        loss = generation_loss(logits[where], batch.student.labels[where])
        loss = loss + 0.5 * cosine_loss([layer[tokens] for layer in student[1:]], [layer[tokens] for layer in teacher[1:]])
        loss = loss + 0.1 * kl_loss(logits[where], teacher_logits[where], 2.0)
        loss.backward()
    return sum(held)


@contextlib.contextmanager
def _dense(model: nn.Module, adapters: LoraBatch, held: list[int]) -> Iterator[None]:
    """Every sample's module has a weight of its own, W + scaling B A, dense. held: told each one's bytes."""
    with contextlib.ExitStack() as hooks:
        for key, (a, b) in adapters.modules.items():
            linear = backbone(model).get_submodule(key)

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
                change = (adapters.scaling * (b @ a)).to(output.dtype)  # (B, d_out, d_in)
                held.append(change.nbytes)
                return output + torch.bmm(inputs[0], change.mT)

            hooks.callback(linear.register_forward_hook(hook).remove)
        yield
