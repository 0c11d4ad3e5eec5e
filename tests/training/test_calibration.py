"""Calibration before the first step: scores of one size, a threshold, and values as long as attention's."""

from __future__ import annotations

import pytest
import torch
from tiny import PER_RANK

from distilledprag.generator import build_generator
from distilledprag.training.calibration import _of_layers, _seen, calibrate
from distilledprag.training.distill import DistillRecipe, DistillTask

MEMORIES = [{"layer": 1, "threshold": 1.5, "gain": 2.0}, {"layer": 2, "attention": 1, "threshold": 0.0}]


@pytest.fixture(scope="module")
def calibrated(tiny_base):
    torch.manual_seed(0)
    recipe = DistillRecipe(
        output="unused",
        generator={**PER_RANK, "rank": 24, "memories": MEMORIES},
        data={
            "source": "world", "questions": 3, "rows": {1: 3, 2: 3, 3: 3, 4: 3}, "validation": 2,
            "phases": [{"until": 1.0, "documents": {1: 1}, "kinds": {"single": 1}}],
        },
        training={"steps": 2},
    )  # fmt: skip
    task = DistillTask(tiny_base, build_generator(recipe.generator, tiny_base), recipe)
    batch = task.batch(1)
    calibrate(task, batch)
    return task, batch


@torch.no_grad()
def scores_of(task, batch, layer):
    """Scores (B, r, T) of a layer's gate rows for the inputs of its MLP, with the layers below already adapted."""
    generator = task.module
    adapters = generator(task.read(batch)[1])
    before = _of_layers(adapters, [known for known in generator.layers if known < layer])
    inputs = _seen(task, batch, batch.tokens.masked_ids, f"layers.{layer}.mlp.gate_proj", before)
    return adapters.modules[f"layers.{layer}.mlp.gate_proj"][0] @ inputs.mT


def test_scores_have_one_size_and_the_threshold_is_taken_off(calibrated):
    task, batch = calibrated
    task.module.begin_step(1000)
    where = batch.tokens.is_question
    count = int(where.sum(1).min())
    for layer, threshold in ((1, 1.5), (2, 0.0)):
        scores = scores_of(task, batch, layer) / 4.0  # UNIT_GAIN
        seen = torch.stack([row[:, chosen][:, :count] for row, chosen in zip(scores, where, strict=True)])
        active = int(task.read(batch)[1].mask.sum(1).min())
        assert seen[:, : min(active, 24)].mean().item() == pytest.approx(-threshold, abs=0.25)
        assert seen[:, : min(active, 24)].std().item() == pytest.approx(1.0, abs=0.35)


@torch.no_grad()
def test_a_memory_writes_vectors_of_the_length_that_attention_writes(calibrated):
    task, batch = calibrated
    task.module.begin_step(1000)
    adapters, where = task.module(task.read(batch)[1]), batch.tokens.is_question
    for layer, attention, gain in ((1, 1, 2.0), (2, 1, 1.0)):
        key = f"layers.{layer}.mlp.down_proj"
        below = {k: v for k, v in _of_layers(adapters, list(range(layer + 1))).items() if k != key}
        a, b = adapters.modules[key]
        written = (_seen(task, batch, batch.tokens.masked_ids, key, below) @ a.mT @ b.mT)[where].norm(dim=-1).mean()
        attended = _seen(task, batch, batch.tokens.open_ids, f"layers.{attention}.self_attn.o_proj", {}, output=True)
        wanted = adapters.scaling and gain * attended[where].norm(dim=-1).mean()
        assert written.item() * adapters.scaling == pytest.approx(wanted.item(), rel=1e-3)


def test_calibration_leaves_the_generator_at_zero_strength(tiny_base, calibrated):
    task, batch = calibrated
    generator = build_generator(task.recipe.generator, tiny_base)
    task.module, kept = generator, task.module
    calibrate(task, batch)
    assert generator.strength == 0
    task.module = kept
