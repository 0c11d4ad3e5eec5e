"""All runs behind docs/results, one after the other: `make evidence`, or `make evidence-quick` for a small check of all of it.

    python scripts/evidence.py                        every run of scripts/evidence.yaml that is not done
    python scripts/evidence.py --only 'layer-*' squad_dev          some of them, by name or pattern
    python scripts/evidence.py --list                 what is done, what is missing, and how long it took
    python scripts/evidence.py --quick --out FOLDER   the small list, with n = 30

A run that was stopped goes on where it was. Runs whose trained checkpoint is missing are passed over with `--no-training`. The
results of all finished runs are gathered in `evidence.json` (beside it the tables and pictures made from it).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from distilledprag.base.default import default_base
from distilledprag.base.prepare import prepare_base
from distilledprag.files import write_atomically
from distilledprag.recipes import merged, recipe_values

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "evidence"
DATA = "../shared/data"
DONE = "done.json"
CURVE = ("loss", "loss_generation", "loss_cosine", "loss_kl")


def kind_of(run: dict[str, Any]) -> str:
    if "audit" in run or "prepare" in run:
        return "audit" if "audit" in run else "prepare"
    return "train" if recipe_values(RECIPES / run.get("recipe", "evaluate.yaml")).get("task") != "evaluate" else "evaluate"


def filled(value: Any, folders: dict[str, Path], data: str) -> Any:
    """`value` with {NAME} replaced by the folder of that run, and the data's folder by the one given."""
    if isinstance(value, dict):
        return {key: filled(part, folders, data) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, folders, data) for part in value]
    if isinstance(value, str):
        for name, folder in folders.items():
            value = value.replace(f"{{{name}}}", str(folder))
        return value.replace(DATA, data)
    return value


def recipe_of(run: dict[str, Any], folder: Path, folders: dict[str, Path], data: str) -> dict[str, Any]:
    """The whole recipe of a training or an evaluation run."""
    values = recipe_values(RECIPES / run.get("recipe", "evaluate.yaml"))
    if "data" in run:
        values = merged(values, {"data": {"file": f"{DATA}/qa/eval/{run['data']}.jsonl.gz"}})
    changes = run.get("set", {})
    if "retriever" in changes:  # another kind, with options of its own
        values.pop("retriever")
    return filled(merged(merged(values, changes), {"output": str(folder)}), folders, data)


def execute(run: dict[str, Any], folder: Path, folders: dict[str, Path], data: str) -> None:
    """Do a run, or go on with it. Raises CalledProcessError where it fails."""
    kind = kind_of(run)
    if kind == "prepare":
        made = filled(run["prepare"], folders, data)
        if "reader" in made:
            from distilledprag.base.default import original_base

            prepare_base(original_base(print), folder, weights=Path(made["reader"]), layer=made["layer"], progress=print)
        else:
            prepare_base(
                default_base(print), folder, layer=8, plain_layer=made["plain_layer"], steps=made["steps"], progress=print
            )
        return
    command = [sys.executable, "-m", "distilledprag"]
    if kind == "audit":
        options = [str(option) for option in filled(run["audit"], folders, data)]
        if "--data" not in options:
            options += ["--data", f"{data}/qa/eval/squad_dev.jsonl.gz", "--train", f"{data}/qa/train/squad_train.jsonl.gz"]
        command += ["audit", *options, "--out", str(folder)]
    else:
        file = folder.with_name(f"{folder.name}.yaml")
        write_atomically(file, yaml.safe_dump(recipe_of(run, folder, folders, data), sort_keys=False))
        command += ["evaluate", str(file)] if kind == "evaluate" else ["train", str(file), "--resume"]
    subprocess.run(command, check=True)


def result_of(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a finished run says: an evaluation's rows, an audit's rows, a training's curve."""
    kind = kind_of(run)
    found: dict[str, Any] = {"name": run["name"], "kind": kind, **json.loads((folder / DONE).read_text())}
    if kind == "evaluate":
        summary = json.loads((folder / "summary.json").read_text())
        return {**found, **{name: summary[name] for name in ("config", "rows", "comparisons", "retrieval")}}
    if kind == "audit":
        return {**found, **json.loads((folder / "report.json").read_text())}
    if kind == "train" and (folder / "log.jsonl").exists():
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        every = max(1, len(log) // 50)
        curve = [{name: line[name] for name in ("step", *CURVE) if name in line} for line in log[::-every][::-1]]
        scored = [{k: v for k, v in line.items() if "/" in k or k == "step"} for line in log if any("/" in k for k in line)]
        return {**found, "curve": curve, "validation": scored}
    return found


def gather(runs: list[dict[str, Any]], folders: dict[str, Path], out: Path) -> None:
    results = [result_of(run, folders[run["name"]]) for run in runs if (folders[run["name"]] / DONE).exists()]
    write_atomically(out / "evidence.json", json.dumps({"runs": results}, indent=1, default=str) + "\n")
    if results:
        subprocess.run([sys.executable, str(ROOT / "scripts" / "make_evidence_tables.py"), "--out", str(out)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], help="names or patterns of runs")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder that the runs are kept in")
    parser.add_argument("--out", type=Path, help="where the gathered results go; default docs/results")
    parser.add_argument("--data", default=DATA, help="folder with qa/eval, qa/train and popqa_300.json")
    given = parser.parse_args()
    listed = yaml.safe_load((ROOT / "scripts" / "evidence.yaml").read_text())
    runs = listed["quick"] if given.quick else listed["runs"]
    folders = {run["name"]: given.runs / run["name"] for run in runs}
    chosen = [run for run in runs if any(fnmatch.fnmatch(run["name"], pattern) for pattern in given.only)]
    spent = 0.0
    for number, run in enumerate(chosen, start=1):
        folder = folders[run["name"]]
        done = folder / DONE
        if done.exists() and json.loads(done.read_text())["run"] == run:
            seconds = json.loads(done.read_text())["seconds"]
            print(f"{number} of {len(chosen)} {run['name']}: done, {seconds / 60:.1f} minutes", flush=True)
            continue
        kind = kind_of(run)
        if kind == "train" and (folder / "model" / "config.json").exists() and not (folder / "recipe.json").exists():
            write_atomically(done, json.dumps({"run": run, "seconds": 0.0, "brought": "from a GPU"}) + "\n")
            print(f"{number} of {len(chosen)} {run['name']}: brought from a GPU", flush=True)
            continue
        missing = [name for name in run.get("needs", []) if not (folders[name] / DONE).exists()]
        if given.list or missing or (kind == "train" and given.no_training):
            needs = f", needs {', '.join(missing)}" if missing else ""
            print(f"{number} of {len(chosen)} {run['name']}: missing ({kind}{needs})")
            continue
        print(f"{number} of {len(chosen)} {run['name']} ({kind}), {spent / 3600:.2f} hours so far", flush=True)
        began = time.perf_counter()
        execute(run, folder, folders, given.data)
        seconds = time.perf_counter() - began
        spent += seconds
        write_atomically(done, json.dumps({"run": run, "seconds": round(seconds, 1)}) + "\n")
        gather(runs, folders, given.out or ROOT / "docs" / "results")
    if not given.list:
        gather(runs, folders, given.out or ROOT / "docs" / "results")


if __name__ == "__main__":
    main()
