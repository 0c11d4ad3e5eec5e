"""Runs that are stopped and go on: the same curve, the finished model, and no mixture of two recipes."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from pairs import write_pairs
from processes import Forked
from pydantic import ValidationError
from tiny import PAPER
from torch import nn

from distilledprag.distillation import run_folder
from distilledprag.distillation.generator_training import DistillTask, train_generator
from distilledprag.distillation.loop import LoopSettings, fit
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.errors import CheckpointError, ConfigError

SETTINGS = {"steps": 4, "learning_rate": 0.1, "checkpoint_every": 2, "evaluate_every": 2, "tensorboard": False}


class Line:
    """The smallest task: a linear layer that learns to double."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Linear(1, 1)
        self.steps = []

    def batch(self, number):
        return torch.tensor([[float(number)]])

    def size(self, batch):
        return 1

    def losses(self, batch, module, step):
        self.steps.append(step)
        return {"loss": (module(batch) - 2 * batch).square().mean()}

    def evaluate(self, step):
        return {"weight": self.module.weight.item()}


def train(output, resume=False, recipe=None, **changes):
    """Train a new line, whose weights at each export go to `model/weights`. Returns the task."""
    task = Line()

    def export(folder):
        (folder / "weights").write_text(json.dumps([p.tolist() for p in task.module.parameters()]))

    fit(task, LoopSettings(**{**SETTINGS, **changes}), output, resume=resume, recipe=recipe, export=export, quiet=True)
    return task


def weights(output):
    return json.loads((output / "model" / "weights").read_text())


def logged(output):
    return [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]


def test_a_finished_run_without_its_model_writes_it_on_resume(tmp_path):
    train(tmp_path / "run")
    expected = weights(tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "gone")
    assert train(tmp_path / "run", resume=True).steps == []
    assert weights(tmp_path / "run") == expected


def test_a_run_stopped_between_its_last_model_and_its_last_checkpoint_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    train(tmp_path / "whole")
    replace_folder = run_folder.replace_folder

    def stopping(folder):
        if folder.name == "state" and folder.exists():
            raise KeyboardInterrupt  # the second checkpoint, that of step 4
        return replace_folder(folder)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_folder, "replace_folder", stopping)
        train(tmp_path / "run")
    assert train(tmp_path / "run", resume=True).steps == [3, 4]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_checkpoint_that_was_being_replaced_is_found_again(tmp_path):
    train(tmp_path / "run")
    (tmp_path / "run" / "state").rename(tmp_path / "run" / ".state.abc.old")
    (tmp_path / "run" / ".state.abc").mkdir()
    assert train(tmp_path / "run", resume=True, steps=5).steps == [5]
    assert logged(tmp_path / "run") == [1, 2, 3, 4, 5]
    assert not list((tmp_path / "run").glob(".state*"))


RECIPE = {"output": "a", "data": {"seed": 0, "sizes": {1: 3}}, "training": {**SETTINGS, "seed": 0}}


@pytest.mark.parametrize("change, named", [
    ({"data": {"seed": 1, "sizes": {1: 3}}}, r"data\.seed was 0 and is now 1"),
    ({"data": {"seed": 0, "sizes": {1: 3, 2: 2}}}, r"data\.sizes\.2 was null and is now 2"),
    ({"training": {**RECIPE["training"], "learning_rate": 0.2}}, r"training\.learning_rate was 0\.1 and is now 0\.2"),
    ({"generator": {"rank": 4}}, "generator was null"),
])  # fmt: skip
def test_a_run_is_not_resumed_with_another_recipe(tmp_path, change, named):
    train(tmp_path / "run", recipe=RECIPE)
    before = (tmp_path / "run" / "recipe.json").read_text()
    with pytest.raises(ConfigError, match=named):
        train(tmp_path / "run", resume=True, recipe={**RECIPE, **change})
    assert (tmp_path / "run" / "recipe.json").read_text() == before and logged(tmp_path / "run") == [1, 2, 3, 4]


def test_a_run_may_be_resumed_with_more_steps_and_other_habits(tmp_path):
    train(tmp_path / "run", recipe=RECIPE)
    habits = {"steps": 6, "evaluate_every": 1, "checkpoint_every": 1, "log_every": 2, "tensorboard": True}
    changed = {**RECIPE, "output": "b", "training": {**RECIPE["training"], **habits}}
    assert train(tmp_path / "run", resume=True, recipe=changed, steps=6).steps == [5, 6]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["training"]["steps"] == 6


def test_another_rank_or_seed_of_a_generator_is_named(tiny_base_folder, tmp_path):
    values = recipe(tiny_base_folder, tmp_path / "run", steps=1)
    train_generator(DistillRecipe(**values), quiet=True)
    values["generator"]["rank"] = 4
    with pytest.raises(ConfigError, match=r"generator\.rank was 2 and is now 4"):
        train_generator(DistillRecipe(**values), resume=True, quiet=True)
    with pytest.raises(ConfigError, match="--resume"):
        train_generator(DistillRecipe(**values), quiet=True)


def _empty(run):
    (run / "state" / "progress.json").write_text("")


def _truncated(run):
    file = next((run / "state").glob("model*"))
    file.write_bytes(file.read_bytes()[:20])


def _torn_middle(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]))


def _torn_recipe(run):
    (run / "recipe.json").write_text('{"output"')


@pytest.mark.parametrize("damage, message", [
    (_empty, r"progress\.json does not say which step"),
    (_truncated, "cannot be loaded"),
    (_torn_middle, "line 2 is damaged"),
    (_torn_recipe, r"recipe\.json is damaged"),
])  # fmt: skip
def test_damaged_files_of_a_run_are_named(tmp_path, damage, message):
    train(tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path / "run", resume=True, steps=5)


def test_a_last_log_line_cut_short_is_written_again(tmp_path):
    train(tmp_path / "run")
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    train(tmp_path / "run", resume=True, steps=6)
    assert logged(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_a_precision_is_one_of_three_and_yamls_no_is_one_of_them():
    with pytest.raises(ValidationError, match="precision"):
        LoopSettings(steps=1, precision="bf32")
    assert LoopSettings(steps=1, precision=False).precision == "no"


def test_runs_of_one_process_may_differ_in_precision(tmp_path):
    train(tmp_path / "full")
    train(tmp_path / "half", precision="bf16")
    full, half = ([json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()] for name in ("full", "half"))
    assert half != full and half == pytest.approx(full, rel=0.05, abs=0.05)


def test_a_precision_that_the_device_lacks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        train(tmp_path / "run", precision="fp16")
    assert not (tmp_path / "run").exists()


def recipe(base, output, **training):
    settings = {"steps": 6, "learning_rate": 1e-3, "evaluate_every": 3, "checkpoint_every": 2, "tensorboard": False, **training}
    data = {"files": [str(write_pairs(output.parent))], "batch_size": 3, "questions_per_context": 2, "validation_share": 0.2}
    return {"output": str(output), "base": str(base), "generator": dict(PAPER), "data": data, "training": settings}


def losses(output):
    keys = ("step", "loss", "loss_generation", "loss_cosine", "loss_kl")
    return [tuple(json.loads(line)[key] for key in keys) for line in (output / "log.jsonl").read_text().splitlines()]


def train_killed_at_step_six(values):
    losses = DistillTask.losses

    def killed_at_step_six(task, batch, module, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(task, batch, module, step)

    DistillTask.losses = killed_at_step_six
    train_generator(DistillRecipe(**values), quiet=True)


def test_a_run_killed_and_resumed_has_the_curve_of_an_unbroken_one(tiny_base_folder, tmp_path, monkeypatch):
    whole, broken = (recipe(tiny_base_folder, tmp_path / name, steps=8) for name in ("whole", "broken"))
    train_generator(DistillRecipe(**whole), quiet=True)
    child = Forked(train_killed_at_step_six, broken, CUDA_VISIBLE_DEVICES="")
    assert child.wait() == -signal.SIGKILL
    assert [row[0] for row in losses(tmp_path / "broken")] == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "broken" / "state" / "progress.json").read_text()) == {"step": 4}
    steps, computed = [], DistillTask.losses
    monkeypatch.setattr(DistillTask, "losses", lambda *given: steps.append(given[-1]) or computed(*given))
    train_generator(DistillRecipe(**broken), resume=True, quiet=True)
    assert steps == [5, 6, 7, 8]
    assert [row[0] for row in losses(tmp_path / "broken")] == list(range(1, 9))
    for ours, theirs in zip(losses(tmp_path / "broken"), losses(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
