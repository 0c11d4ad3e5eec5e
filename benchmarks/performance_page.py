"""The tables of docs/performance.md and the picture beside it, made from docs/results/bench.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from measuring import ROOT

from distilledprag.files import write_section

PAGE = ROOT / "docs" / "performance.md"


def write_page(result: dict[str, Any], file: Path) -> None:
    """Put the tables into the page, and the picture beside the JSON file."""
    _plot(result, file.with_suffix(".png"))
    write_section(PAGE, "made by benchmarks/performance_page.py", _tables(result))


def _tables(result: dict[str, Any]) -> str:
    lines = [f"Base: {result['base']}."]
    for name, part in result["parts"].items():
        machine, versions = part["hardware"], part["versions"]
        quick = " **A quick run: few repetitions.**" if part["quick"] else ""
        lines += [
            "",
            f"### {name}",
            f"{machine['cores']} cores ({machine['processor']}), {machine['threads']} threads, load {part['load_before']} before "
            f"it began; torch {versions['torch']}, transformers {versions['transformers']}; {part['took_seconds']} s.{quick}",
        ]
        for key in ("rows", "growth"):
            if part[key]:
                lines += ["", *_table(part[key])]
        lines += ["", "| ratio | by the clock | by the processor | wanted | |", "|---|---|---|---|---|"]
        for what, ratio in part["ratios"].items():
            values = list(ratio.values())
            most, least = part["at_most"].get(what), part.get("at_least", {}).get(what)
            wanted = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
            met = ""
            if wanted:
                good = values[0] <= most if most is not None else values[0] >= least
                met = "met" if good else "**missed**"
            second = f"{values[1]:g}" if len(values) > 1 else ""
            lines.append(f"| {what} | {values[0]:g} | {second} | {wanted} | {met} |")
    lines += ["", "![growth](results/bench.png)"]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = (row[name] for name in names)
        lines.append("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else f"{cell}" for cell in cells) + " |")
    return lines


def _plot(result: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = {name: part["growth"] for name, part in result["parts"].items() if part["growth"]}
    figure, axes = plt.subplots(1, len(parts), figsize=(4.2 * len(parts), 3.4), squeeze=False)
    for axis, (name, growth) in zip(axes[0], parts.items(), strict=True):
        by = next(iter(growth[0]))
        key = "seconds" if "seconds" in growth[0] else "first_token_seconds"
        for way in dict.fromkeys(row["way"] for row in growth):
            own = [row for row in growth if row["way"] == way]
            axis.plot([row[by] for row in own], [row[key] for row in own], marker="o", label=way.replace("_", " "))
        axis.set(title=name, xlabel=by, ylabel=key.replace("_", " "), xscale="log", yscale="log")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    committed = ROOT / "docs" / "results" / "bench.json"
    write_page(json.loads(committed.read_text()), committed)
