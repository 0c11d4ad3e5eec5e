"""`make bench`: every part side by side with its alternatives -> docs/results/bench.json, pictures, docs/performance.md.

    python benchmarks/bench.py [PART ...] [--quick] [--check]

Parts: encode, answer, load, train_step, find. Each is written when it is done, in place of its own former figures; one that fails
is told at the end and loses nothing of the others. `--check` measures, writes nothing and fails when a ratio is worse than the
committed one by more than a fourth and by more than chance. `--result`: with another file than the committed one the page stays
as it is. `--shape`: a base of that shape with random weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from measuring import ROOT, Watch
from performance_page import section, write_page
from shapes import SHAPES, random_base

from distilledprag.base.default import original_base
from distilledprag.evaluation.runner import machine
from distilledprag.files import write_atomically
from distilledprag.pipeline import DistilledPRAG

RESULT = ROOT / "docs" / "results" / "bench.json"
PARTS = ("encode", "answer", "load", "train_step", "find")  # modules beside this one; each with what it needs
SLACK = 1.25
SPREADS = 3  # how many of both runs' standard errors a ratio may be off in addition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer runs: does everything work?")
    parser.add_argument("--check", action="store_true", help="compare ratios with the committed ones")
    parser.add_argument("--base", help="a prepared base's folder; default: SmolLM2")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        help="random weights, with the tokenizer of --base (not prepared)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    if (options.shape or options.device != "cpu") and options.result == RESULT:
        parser.error("--shape and --device need a --result of their own: the committed figures are the default base's on a CPU")
    known = json.loads(options.result.read_text()) if options.result.exists() else {"benchmark": "bench", "parts": {}}
    failed, worse = [], []
    for name in options.parts or PARTS:
        try:
            part = measured(name, options)
        except Exception:  # the other parts' figures are worth having
            traceback.print_exc()
            failed.append(name)
            continue
        print("\n".join(section(name, part)), flush=True)
        if options.check:
            worse += compared({name: part}, known["parts"])
        else:
            parts = known["parts"] | {name: part}
            known["parts"] = {each: parts[each] for each in PARTS if each in parts}
            write_atomically(options.result, json.dumps(known, indent=1) + "\n")
    if options.check:
        print("\n".join(worse) or "no ratio is worse than the committed one")
    elif options.result == RESULT:
        write_page(known, RESULT)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    sys.exit(bool(worse or failed))


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A part's figures, and on what they were measured. The base is loaded anew: a part leaves nothing to the next."""
    torch.manual_seed(0)
    if options.shape:
        prag = random_base(options.shape, options.base or str(original_base(print)), options.device)
    else:
        prag = DistilledPRAG.from_pretrained(options.base, device=options.device)
    load_before, watch = os.getloadavg()[0], Watch()
    part = importlib.import_module(name).measure(prag, options.quick)
    return {
        **part,
        "base": prag.base.id,
        "device": options.device,
        "quick": options.quick,
        "load_before": round(load_before, 1),
        "took_seconds": round(watch.spent().seconds),
        **machine(),
    }


def compared(made: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Ratios that are worse than before by more than a fourth and what both runs may be off by chance. Processor seconds decide
    where there are any: a busy machine moves them least."""
    worse = []
    for name, part in made.items():
        for what, ratio in part["ratios"].items():
            old = before.get(name, {}).get("ratios", {}).get(what)
            if old is None:
                continue
            key = "processor_seconds" if "processor_seconds" in ratio else next(iter(ratio))
            slack = SLACK + SPREADS * (ratio.get("spread", 0.0) + old.get("spread", 0.0))
            higher_is_better = what in part.get("at_least", {})
            if ratio[key] < old[key] / slack if higher_is_better else ratio[key] > old[key] * slack:
                worse.append(f"{name}: {what}: {ratio[key]} ({key}), was {old[key]}")
    return worse


if __name__ == "__main__":
    main()
