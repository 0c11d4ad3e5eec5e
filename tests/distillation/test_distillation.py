"""Distillation: student and teacher as intended, and wrong recipes named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from pairs import write_pairs
from tiny import PAPER, random_generator

from distilledprag.distillation.generator_training import DistillTask, compared_positions, train_generator
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.errors import ConfigError
from distilledprag.generators import build_generator
from distilledprag.generators.paper import PaperGenerator
from distilledprag.recipes import read_recipe


def recipe(base: Path, output: Path, **training) -> dict:
    settings = {"steps": 6, "learning_rate": 1e-3, "evaluate_every": 3, "checkpoint_every": 2, "tensorboard": False, **training}
    return {
        "task": "distill",
        "output": str(output),
        "base": str(base),
        "generator": dict(PAPER),
        "data": {
            "files": [str(write_pairs(Path(output).parent))],
            "batch_size": 3,
            "questions_per_context": 2,
            "validation_share": 0.2,
        },
        "training": settings,
    }


def test_the_generator_reads_the_states_that_encode_would_give(tiny_base, tmp_path):
    task = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**recipe(tmp_path, tmp_path)))
    batch = task.batch(0)
    _, documents = task.read(batch)
    encoded = task.module.encode(tiny_base, batch.passages)
    length = encoded.states.size(2)
    assert torch.equal(documents.mask[:, :length], encoded.mask)
    ours = documents.states[:, :, :length][:, encoded.mask]
    assert torch.allclose(ours, encoded.states[:, encoded.mask], atol=1e-4)


def test_the_student_of_an_open_prompt_without_adapter_is_the_teacher(tiny_base, tmp_path):
    generator = build_generator(PAPER, tiny_base)  # untrained: it changes nothing
    task = DistillTask(tiny_base, generator, DistillRecipe(**recipe(tmp_path, tmp_path)))
    batch = task.batch(0)
    batch.student = batch.teacher
    parts = task.losses(batch, generator, 0)
    assert parts["loss_cosine"].item() == pytest.approx(0.0, abs=1e-5)
    assert parts["loss_kl"].item() == pytest.approx(0.0, abs=1e-5)
    assert parts["loss"].item() == pytest.approx(parts["loss_generation"].item(), abs=1e-5)


def test_the_total_is_the_papers_weighted_sum(tiny_base, tmp_path):
    task = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**recipe(tmp_path, tmp_path)))
    parts = task.losses(task.batch(0), task.module, 1)
    expected = parts["loss_generation"] + 0.5 * parts["loss_cosine"] + 0.1 * parts["loss_kl"]
    assert parts["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_cosine_positions_are_what_they_are_named(tiny_base, tmp_path):
    task = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**recipe(tmp_path, tmp_path)))
    batch = task.batch(0)
    outside = compared_positions(batch, "outside_documents")
    assert not (outside & batch.is_document).any() and (outside | batch.is_document).equal(batch.teacher.is_token)
    assert compared_positions(batch, "all").equal(batch.teacher.is_token)
    assert compared_positions(batch, "answer").equal(batch.teacher.is_supervised)
    assert not (compared_positions(batch, "question_and_answer") & batch.is_document).any()


def test_cached_teacher_outputs_replace_the_teacher_and_change_no_number(tiny_base, tmp_path):
    values = recipe(tmp_path, tmp_path)
    plain = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**values))
    values["teacher_cache"] = {"folder": str(tmp_path / "cache"), "top_k": 1000}  # all of the vocabulary
    cached = DistillTask(tiny_base, plain.module, DistillRecipe(**values))
    expected = plain.losses(plain.batch(0), plain.module, 1)
    first = cached.losses(cached.batch(0), plain.module, 1)
    assert first["loss_generation"].item() == pytest.approx(
        expected["loss_generation"].item(), abs=2e-3
    )  # kept in half precision
    assert first["loss_cosine"].item() == pytest.approx(expected["loss_cosine"].item(), abs=2e-3)
    assert first["loss_kl"].item() == pytest.approx(expected["loss_kl"].item(), rel=2e-2, abs=2e-3)
    cached.read = None  # a second visit must not ask the teacher
    second = cached.losses(cached.batch(0), plain.module, 1)
    assert {name: value.item() for name, value in second.items()} == {name: value.item() for name, value in first.items()}


def test_a_damaged_cache_file_is_computed_again(tiny_base, tmp_path):
    values = {**recipe(tmp_path, tmp_path), "teacher_cache": {"folder": str(tmp_path / "cache")}}
    task = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**values))
    first = task.losses(task.batch(0), task.module, 1)["loss"].item()
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:50])
    assert task.losses(task.batch(0), task.module, 1)["loss"].item() == first
    assert len(files[0].read_bytes()) > 50


def test_losses_fall_on_a_batch_seen_again_and_again(tiny_base, tmp_path):
    torch.manual_seed(0)
    task = DistillTask(tiny_base, random_generator(tiny_base, PAPER), DistillRecipe(**recipe(tmp_path, tmp_path)))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    batch, seen = task.batch(0), []
    for step in range(40):
        loss = task.losses(batch, task.module, step)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]


def test_a_generator_is_initialised_once_with_the_first_batch_and_not_on_resume(tiny_base_folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(PaperGenerator, "initialise", lambda generator, documents: seen.append(documents.mask.shape[0]))
    values = recipe(tiny_base_folder, tmp_path / "run", steps=2)
    train_generator(DistillRecipe(**values), quiet=True)
    assert seen == [3]  # contexts of a batch
    values["training"]["steps"] = 3
    train_generator(DistillRecipe(**values), resume=True, quiet=True)
    assert seen == [3]


def test_pairs_from_a_file_train_too(tiny_base_folder, tmp_path):
    rows = [
        {"documents": [f"Anna Tovberg lives in {city}."], "question": "Where does Anna Tovberg live?", "answer": city}
        for city in ("Oakport", "Millport", "Dunburg")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = recipe(tiny_base_folder, tmp_path / "run", steps=2)
    values["data"] = {"source": "pairs", "files": [str(tmp_path / "pairs.jsonl")], "batch_size": 2}
    train_generator(DistillRecipe(**values), quiet=True)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("change, wrong", [
    ({"outputs": "x"}, "outputs"),
    ({"training": {"steps": 0}}, "training.steps"),
    ({"data": {"source": "web"}}, "data"),
])  # fmt: skip
def test_a_wrong_recipe_key_is_named(tmp_path, change, wrong):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe(tmp_path, tmp_path / "run"), **change}))
    with pytest.raises(ConfigError, match=wrong):
        read_recipe(file, DistillRecipe)
