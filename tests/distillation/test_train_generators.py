"""scripts/train_generators.py: the sitting on a lent GPU, on a tiny base: it times, chooses the steps, and leaves what to bring
back."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import PAPER

from distilledprag.base.prepared import SCORER_FILE, part_of
from distilledprag.generators import load_generator
from distilledprag.generators.compressed import load_compressor
from distilledprag.generators.cross_encoder import base_scorer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("train_generators", ROOT / "scripts" / "train_generators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    common = {
        "dtype": "float32",
        "output": "x",
        "data": {"files": ["anywhere/rows.jsonl"], "batch_size": 2},
    }
    training = {"steps": 1, "precision": "no"}
    for name, values in {
        "compress": {"task": "compress", "compressor": {"layer": 1, "rank": 2, "ratios": [2]}, "training": training},
        "paper": {"task": "distill", "generator": PAPER, "training": training},
        "sentence-scorer": {"task": "scorer", "scorer": {"layer": 1, "rank": 2}, "training": {"steps": 1}},
    }.items():
        share = {"held_out": 2, "fewest": 5} if name == "sentence-scorer" else {"validation_share": 0.3}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**common, **values, "data": {**common["data"], **share}}))
    rows = [
        {
            "documents": [{"title": "", "text": f"Anna {n} lives in Oakport. She bakes. He sings."}],
            "question": f"Where is {n}?",
            "answers": ["Oakport"],
        }
        for n in range(6)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(module, "RECIPES", tmp_path)
    return module


def test_a_sitting_leaves_checkpoints_that_load(script, monkeypatch, tmp_path, tiny_base, tiny_base_folder):
    out = tmp_path / "out"
    options = ["--base", tiny_base_folder, "--data", tmp_path / "data", "--out", out, "--minutes", 0.005, "--batch-size", 2]
    monkeypatch.setattr(script, "TIMED", 4)
    for name in ("compress", "paper", "sentence-scorer"):
        monkeypatch.setattr(sys, "argv", ["x", name, *map(str, options)])
        script.main()
        steps = [json.loads(line)["step"] for line in (out / name / "log.jsonl").read_text().splitlines()]
        assert len(steps) >= 2 and steps == list(range(1, len(steps) + 1))
    compressor, generator = load_compressor(out / "compress", tiny_base), load_generator(out / "paper", tiny_base)
    assert compressor.settings.ratios == (2,) and generator.settings.architecture == "paper"
    prepared = part_of(tmp_path / "prepared", SCORER_FILE)
    prepared.parent.mkdir(parents=True)
    shutil.copy(out / "sentence-scorer" / "model.safetensors", prepared)
    assert base_scorer(tmp_path / "prepared", tiny_base).settings.layer == 1


def test_what_comes_back_is_put_where_the_runs_look_for_it(tmp_path):
    keep, back, runs = tmp_path / "keep", tmp_path / "back", tmp_path / "runs"

    def call(*arguments):
        command = ["bash", ROOT / "scripts" / "gpu_generators.sh", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "KEEP": str(keep)})

    for name in ("compress", "paper"):
        (keep / "generators" / name).mkdir(parents=True)
        (keep / f"{name}.txt").write_text(f"{name} says")
        for file in ("config.json", "log.jsonl", "model.safetensors"):
            (keep / "generators" / name / file).write_text(f"{name} {file} " * 1_000_000 if "model" in file else f"{name} {file}")
    call("pack", back, "compress", "paper", "never-trained")
    assert len(list(back.iterdir())) <= 8 and max(file.stat().st_size for file in back.iterdir()) < 16 * 2**20
    call("unpack", back, runs)
    for name in ("compress", "paper"):
        for file, place in (("config.json", "model"), ("model.safetensors", "model"), ("log.jsonl", ".")):
            assert (runs / f"train-{name}" / place / file).read_text() == (keep / "generators" / name / file).read_text()
        assert (runs / f"train-{name}" / "output.txt").read_text() == f"{name} says"
