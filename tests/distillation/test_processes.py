"""Training by torchrun: two processes learn what one does, and a run goes on in another number of processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from pairs import write_pairs
from test_reader_training import TINY_RUN, write_rows
from tiny import PAPER, tiny_model, tiny_tokenizer

from distilledprag.base.reader import load_tensors
from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor
from distilledprag.distillation.generator_training import train_generator
from distilledprag.distillation.processes import Processes
from distilledprag.distillation.reader_training import ReaderTraining, train_reader
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.errors import ConfigError


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes of `in_two`: sums of more threads round differently, and Adam makes steps of what is left of zero."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def launched(*arguments):
    """Two processes of this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=600)


def in_two(recipe, tmp_path, *options):
    """`dprag train` of a recipe in two processes of this machine."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return launched("-m", "distilledprag", "train", file, *options)


def logged(run):
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "examples_per_second"} for record in records]


def close(ours, theirs):
    assert [record.keys() for record in ours] == [record.keys() for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_batches_that_cannot_be_shared_out_are_refused():
    assert [list(Processes(rank, 2).own(4, "x")) for rank in (0, 1)] == [[0, 2], [1, 3]]
    with pytest.raises(ConfigError, match=r"training\.batches is 3, and 2 processes share"):
        Processes(0, 2).own(3, "training.batches")


@pytest.mark.parametrize(("task", "reason"), [
    ("reader", "weights of all layers"), ("dyprag", "trains in one process"), ("prag", "trains in one process"),
    ("scorer", "trains in one process"),
])  # fmt: skip
def test_a_task_that_cannot_share_the_base_says_why(task, reason, dprag, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"task": task, "training": {"steps": 1}}))
    code, _, error = dprag("train", file, "--set", "training.shard_base=true")
    assert code == 1 and reason in " ".join(error.split()) and "training.shard_base" in error


TRAINING = {
    "learning_rate": 1e-3, "evaluate_every": 3, "checkpoint_every": 3, "tensorboard": False, "gradient_accumulation_steps": 2,
    "schedule": "trapezoid", "warmup_ratio": 0, "decay_ratio": 0,
}  # fmt: skip
GENERATOR = {**PAPER, "dropout": 0.2}


def pairs_of(folder):
    return {"files": [str(write_pairs(folder))], "batch_size": 3, "questions_per_context": 2, "validation_share": 0.2}


@pytest.mark.slow
@pytest.mark.scale
def test_a_generator_learns_the_same_in_two_processes_and_goes_on_in_another_number(tiny_base_folder, tmp_path):
    data = pairs_of(tmp_path)

    def recipe(name, steps):
        own = {"output": str(tmp_path / name), "training": {**TRAINING, "steps": steps}}
        return {"task": "distill", "base": str(tiny_base_folder), "generator": GENERATOR, "data": data, **own}

    def alone(name, steps, resume=False):
        values = recipe(name, steps)
        train_generator(DistillRecipe(**values), resume=resume, quiet=True)

    alone("whole", 6)
    ran = in_two(recipe("from-two", 3), tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("generator written to") == 1
    close(logged(tmp_path / "from-two"), logged(tmp_path / "whole")[:3])
    alone("from-two", 6, resume=True)
    alone("from-one", 3)
    ran = in_two(recipe("from-one", 6), tmp_path, "--resume", "--set", "training.shard_base=true")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("2 processes share the base's layers") == 1
    for name in ("from-two", "from-one"):
        close(logged(tmp_path / name), logged(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.scale
def test_two_processes_that_share_the_base_hold_half_of_it_and_learn_what_one_does(tiny_base_folder, tmp_path):
    common = {"base": str(tiny_base_folder), "data": pairs_of(tmp_path)}

    def distill(name, steps, shard=True):
        own = {"output": str(tmp_path / name), "training": {**TRAINING, "steps": steps, "shard_base": shard}}
        cache = {"folder": str(tmp_path / f"{name}-cache")}
        return {"task": "distill", "generator": GENERATOR, "teacher_cache": cache, **common, **own}

    def compress(name):
        own = {"output": str(tmp_path / name), "training": {**TRAINING, "steps": 3, "shard_base": True}, "dtype": "float32"}
        return {"task": "compress", "compressor": {"layer": 1, "ratios": [2, 4], "rank": 4, "decoder_rank": 2}, **common, **own}

    train_generator(DistillRecipe(**distill("whole", 6)), quiet=True)
    train_compressor(CompressRecipe(**compress("compressor")), quiet=True)
    shutil.copytree(tmp_path / "whole-cache", tmp_path / "run-cache")
    first = min((tmp_path / "run-cache").rglob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    first.unlink()  # so that in the first step one process finds the teacher's outputs, and the other does not
    (tmp_path / "recipes.json").write_text(json.dumps([distill("run", 3), compress("compressor-of-two")]))
    ran = launched(Path(__file__).with_name("train_sharded.py"), tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = {name: [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in ("held", "turn")}
    held, whole = zip(*said["held"], strict=True)
    assert sum(held) == whole[0] == whole[1] > 0
    assert max(held) <= 0.51 * whole[0]
    (_, end), (begin, _) = sorted(said["turn"])
    assert end <= begin
    close(logged(tmp_path / "run"), logged(tmp_path / "whole")[:3])
    close(logged(tmp_path / "compressor-of-two"), logged(tmp_path / "compressor"))
    train_generator(DistillRecipe(**distill("run", 6, shard=False)), resume=True, quiet=True)
    close(logged(tmp_path / "run"), logged(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.scale
def test_a_reader_goes_on_in_two_processes_as_it_would_have_in_one(tmp_path, monkeypatch):
    base, tokenizer = tmp_path / "base", tiny_tokenizer()
    tiny_model(tokenizer, num_hidden_layers=4).save_pretrained(base)
    tokenizer.save_pretrained(base)
    data, settings = write_rows(tmp_path), replace(TINY_RUN, batches_per_step=2)
    train_reader(base, [data], tmp_path / "whole", settings)
    save = ReaderTraining.save

    def stopping(training, run):
        save(training, run)
        if training.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ReaderTraining, "save", stopping)
        train_reader(base, [data], tmp_path / "run", settings)
    training = json.loads(json.dumps(asdict(settings)))
    recipe = {"task": "reader", "base": str(base), "data": [str(data)], "output": str(tmp_path / "run"), "training": training}
    ran = in_two(recipe, tmp_path, "--resume")
    assert ran.returncode == 0, ran.stderr
    for name in ("reader.safetensors", "masks.safetensors"):
        ours, theirs = load_tensors(tmp_path / "run" / name), load_tensors(tmp_path / "whole" / name)
        assert ours.keys() == theirs.keys()
        assert max((ours[key].float() - theirs[key].float()).abs().max().item() for key in ours) < 1e-4, name
    recipe["training"]["batches_per_step"], recipe["output"] = 1, str(tmp_path / "odd")
    ran = in_two(recipe, tmp_path)
    assert ran.returncode != 0 and "batches_per_step is 1, and 2 processes share" in ran.stderr
