"""Trains and evaluates every recipe of recipes/ablations that is not done yet, then writes docs/results/ablations/report.*.

A killed run goes on where it was. `--only NAME` (repeatable): these only, without the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from distilledprag.commands import evaluate, train
from distilledprag.evaluation.report import write_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "ablations"
EVALUATION = ROOT / "recipes" / "evaluation" / "ablation-tiny-cpu.yaml"


def run_one(recipe: Path) -> Path:
    """The finished evaluation's folder."""
    settings = yaml.safe_load(recipe.read_text())
    trained, measured = Path(settings["output"]), Path("runs") / "evaluate-ablations" / recipe.stem
    if not (measured / "summary.json").exists():
        train.run(recipe, resume=True)
        method = f"distilled_{settings['generator']['architecture']}"
        asked = yaml.safe_load(EVALUATION.read_text())
        asked |= {"output": str(measured), "methods": [method], "checkpoints": {method: str(trained / "model")}}
        file = trained / "evaluation.yaml"
        file.write_text(yaml.safe_dump(asked))
        evaluate.run_recipe(file)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    only = parser.parse_args().only
    recipes = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
    done = [run_one(recipe) for recipe in recipes if not only or recipe.stem in only]
    if only:
        return
    write_report(done, RESULTS)


if __name__ == "__main__":
    main()
