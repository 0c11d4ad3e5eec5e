"""scripts/train_generators.py: the sitting on a lent GPU, on a tiny base: it times, chooses the steps, and leaves what to bring
back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import PAPER

from distilledprag.generators import load_generator
from distilledprag.generators.compressed import load_compressor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("train_generators", ROOT / "scripts" / "train_generators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    common = {
        "dtype": "float32",
        "output": "x",
        "data": {"files": ["anywhere/rows.jsonl"], "batch_size": 2, "validation_share": 0.3},
    }
    training = {"steps": 1, "precision": "no"}
    for name, values in {
        "compress": {"task": "compress", "compressor": {"layer": 1, "rank": 2, "ratios": [2]}, "training": training},
        "paper": {"task": "distill", "generator": PAPER, "training": training},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**common, **values}))
    rows = [
        {
            "documents": [{"title": "", "text": f"Anna {n} lives in Oakport."}],
            "question": f"Where is {n}?",
            "answers": ["Oakport"],
        }
        for n in range(6)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(module, "RECIPES", tmp_path)
    return module


def test_a_sitting_leaves_checkpoints_that_load_and_travel_in_few_files(
    script, monkeypatch, tmp_path, tiny_base, tiny_base_folder
):
    out = tmp_path / "out"
    command = [
        "x",
        "compress",
        "paper",
        "--base",
        tiny_base_folder,
        "--data",
        tmp_path / "data",
        "--out",
        out,
        "--minutes",
        0.005,
    ]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--batch-size", "2"])
    script.main()
    compressor, generator = load_compressor(out / "compress", tiny_base), load_generator(out / "paper", tiny_base)
    assert compressor.settings.ratios == (2,) and generator.settings.architecture == "paper"
    for name in ("compress", "paper"):
        steps = [json.loads(line)["step"] for line in (out / name / "log.jsonl").read_text().splitlines()]
        assert len(steps) >= 2 and steps == list(range(1, len(steps) + 1))


def test_what_came_back_is_put_where_the_runs_look_for_it(tmp_path):
    made = tmp_path / "made"
    for name in ("compress", "paper"):
        (made / name).mkdir(parents=True)
        for file in ("config.json", "log.jsonl", "model.safetensors"):
            (made / name / file).write_text(f"{name} {file} " * 40)
    back, runs = tmp_path / "back", tmp_path / "runs"
    back.mkdir()
    (made / "generators.txt").write_text("")
    for name in ("compress", "paper"):
        subprocess.run(
            ["split", "-b", "500", "-d", made / name / "model.safetensors", back / f"{name}.model.safetensors."], check=True
        )
    small = [f"{name}/{file}" for name in ("compress", "paper") for file in ("config.json", "log.jsonl")]
    subprocess.run(["tar", "-C", made, "-czf", back / "small.tar.gz", "generators.txt", *small], check=True)
    subprocess.run(["bash", ROOT / "scripts" / "gpu_generators.sh", "unpack", back, runs], check=True)
    for name in ("compress", "paper"):
        for file, place in (("config.json", "model"), ("model.safetensors", "model"), ("log.jsonl", ".")):
            assert (runs / f"train-{name}" / place / file).read_text() == (made / name / file).read_text()
