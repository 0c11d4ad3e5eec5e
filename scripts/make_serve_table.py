"""Writes docs/results/serve.md from docs/results/serve*.json (made by `make bench-serve`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilledprag.files import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results"
HEAD = """# Serving adapters: load

Made by `scripts/make_serve_table.py` from `serve*.json`; command: `make bench-serve`, and
`benchmarks/serve.py --users 8` for the last. What is measured stands in
`benchmarks/serve.py`: `distinct` is the engine with an adapter for each user, beside the same engine without adapters, the engine
answering one request at a time, and PEFT's `hotswap_adapter` (in-process, without HTTP; it has one load).
"""
WANTED = {"no_adapter": 0.8, "one_at_a_time": 3.0}  # throughput of `distinct` over that way, at 8 users


def section(result: dict[str, Any], name: str) -> list[str]:
    config, machine = result["config"], result["hardware"]
    lines = [
        f"## {config['tokens']} tokens an answer (`{name}`)",
        "",
        f"Base: Llama-shaped, random weights, width {config['hidden']}, 8 layers; prompts of {config['prompt']} tokens; "
        f"{config['rounds']} rounds; {machine['cores']} cores, {machine['processor']}; torch {result['versions']['torch']}.",
        "",
        "| rank | users | way | tokens/s | p50, s | p95, s | requests |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rank']} | {row['users']} | {row['way']} | {row['tokens_per_second']} | {row['p50_seconds']:.2f} "
        f"| {row['p95_seconds']:.2f} | {row['requests']} |"
        for row in result["rows"]
    ]
    lines += ["", "| `distinct` over | no_adapter | one_at_a_time | hotswap |", "|---|---|---|---|"]
    lines += [
        f"| {load} | {found['no_adapter']:.2f} | {found['one_at_a_time']:.2f} | {found['hotswap']:.2f} |"
        for load, found in result["ratios"].items()
    ]
    for load, found in result["ratios"].items():
        if load.endswith(" 8 users"):
            held = [f"{found[way]:.2f} of `{way}` ({wanted} wanted)" for way, wanted in WANTED.items()]
            met = all(found[way] >= wanted for way, wanted in WANTED.items())
            lines += ["", f"{load}: {' and '.join(held)}: {'met' if met else '**missed**'}."]
    return [*lines, "", f"![throughput and p95]({Path(name).with_suffix('.png')})", ""]


def main() -> None:
    text = [HEAD]
    for file in sorted(RESULTS.glob("serve*.json")):
        text += section(json.loads(file.read_text()), file.name)
    write_atomically(RESULTS / "serve.md", "\n".join(text))


if __name__ == "__main__":
    main()
