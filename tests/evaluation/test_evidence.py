"""`make evidence`: every run of the list is a whole recipe, runs need earlier runs only, tables and figure hold what was
measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distilledprag.baselines.dyprag import DypragRecipe
from distilledprag.distillation.compressor_training import CompressRecipe
from distilledprag.distillation.recipes import DistillRecipe, ReaderRecipe
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.recipes import checked_recipe

ROOT = Path(__file__).parents[2]
LIST = yaml.safe_load((ROOT / "scripts" / "evidence.yaml").read_text())
KINDS = {
    "evaluate": EvaluationRecipe,
    "distill": DistillRecipe,
    "compress": CompressRecipe,
    "dyprag": DypragRecipe,
    "reader": ReaderRecipe,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "scripts" / "evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", ["runs", "quick"])
def test_every_run_is_a_whole_recipe_and_needs_earlier_runs_only(script, part):
    folders = {run["name"]: Path("evidence") / run["name"] for run in LIST[part]}
    assert len(folders) == len(LIST[part])
    earlier: set[str] = set()
    for run in LIST[part]:
        assert set(run.get("needs", [])) <= earlier, run["name"]
        earlier.add(run["name"])
        if script.kind_of(run) in ("train", "evaluate"):
            values = script.recipe_of(run, folders[run["name"]], folders, "DATA")
            recipe = checked_recipe(values, KINDS[values["task"]], run["name"])
            assert recipe.output == folders[run["name"]]
            assert "{" not in json.dumps(values.get("checkpoints", {})).strip("{}")


def test_tables_and_figure_are_made_from_json(tmp_path):
    row = {"dataset": "squad_dev", "type": "all", "n": 3, "exact_match": 0.5, "f1_low": 0.1, "f1_high": 0.9, "adapter_bytes": 9}
    row |= {"rows": 2, "prompt_tokens": 7, "seconds": 0.1}
    methods = {"rag": 0.75, "closed_book": 0.02, "state": 0.74, "state_r2": 0.7, "paper": 0.1}
    config = {"layer": 8, "rows_sent_as": "int8"}
    evaluation = {"config": config, "rows": [{**row, "method": name, "f1": f1} for name, f1 in methods.items()]}
    for one in evaluation["rows"]:
        one |= {"of_rag": one["f1"] / 0.75, "of_rag_low": 0.0, "of_rag_high": 1.1}
    shares = {name: {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3} for name in ("tokens", "rare_tokens", "rouge1", "rouge2")}
    dial = {"layer": 8, "rows": 1.0, "noise": 0.0, "precision": "int8"}
    stronger = {**shares, "tokens": {**shares["tokens"], "mean": 0.6}}
    audit = {
        "config": {},
        "rows": [
            {"dial": {**dial, "method": "state"}, "name": "state, layer 8", "attacker": "linear", "scores": shares},
            {"dial": {**dial, "method": "state"}, "name": "state, layer 8", "attacker": "decoder", "scores": stronger},
            {"dial": {**dial, "method": "paper", "layer": None}, "name": "paper", "attacker": "linear", "scores": shares},
        ],
    }
    for one in audit["rows"]:
        one["chance"] = {"tokens": 0.2}
    files = {"evaluation": evaluation, "audit": audit}
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    command = [sys.executable, ROOT / "scripts" / "make_evidence_tables.py", "--out", tmp_path]
    command += ["--evaluations", tmp_path / "evaluation.json", "--audits", tmp_path / "audit.json"]
    subprocess.run(command, check=True)
    points = {point["label"]: (point["leak"], point["f1"]) for point in json.loads((tmp_path / "leak.json").read_text())}
    assert points == {"state, layer 8": (0.6, 0.74), "paper": (0.5, 0.1), "rag": (1.0, 0.75), "closed_book": (0.0, 0.02)}
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("leak.png", "rows.png"))
    page = (tmp_path / "evidence.md").read_text()
    assert "| state, layer 8 | decoder | 0.60 (0.40-0.60)" in page and "| squad_dev | rag | 3 | 0.750" in page
    assert "rows.png" in page


@pytest.mark.slow
def test_the_quick_list_runs_on_the_real_base(tmp_path):
    command = [
        sys.executable,
        ROOT / "scripts" / "evidence.py",
        "--quick",
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path / "out",
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    found = {run["name"]: run for run in json.loads((tmp_path / "out" / "evidence.json").read_text())["runs"]}
    assert found.keys() == {run["name"] for run in LIST["quick"]}
    f1 = {row["method"]: row["f1"] for row in found["quick-everyday"]["rows"] if row["type"] == "all"}
    assert f1["state"] > 0.8 * f1["rag"] > 3 * f1["shuffled"]
    again = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert again.count("done") == len(LIST["quick"])
