"""The tables of docs/performance.md and the picture beside it, made from docs/results/bench.json and, for other shapes and
devices, the bench-*.json beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from measuring import ROOT

from distilledprag.files import write_section

PAGE = ROOT / "docs" / "performance.md"
HEADS = {
    "seconds": "time",
    "first_token_seconds": "first token",
    "answer_seconds": "whole answer",
    "processor_seconds": "of the processor",
    "first_token_processor_seconds": "of the processor",
    "answer_processor_seconds": "of the processor",
    "adapter_bytes": "adapter",
    "adapter_bytes_an_adapter": "an adapter",
    "f1": "F1",
}


def write_page(result: dict[str, Any], file: Path) -> None:
    """Put the tables into the page, and the picture beside the JSON file."""
    lines = [line for name, part in result["parts"].items() for line in section(name, part)]
    lines += ["![growth](results/bench.png)", ""]
    for other in sorted(file.parent.glob(f"{file.stem}-*.json")):
        for name, part in json.loads(other.read_text())["parts"].items():
            lines += section(f"{name}, {part['base']}, {part['device']}", part)
    _plot({name: part["growth"] for name, part in result["parts"].items()}, file)
    write_section(PAGE, "made by benchmarks/performance_page.py", "\n".join(lines).rstrip())


def section(name: str, part: Mapping[str, Any]) -> list[str]:
    """A part's tables in Markdown, and an empty line."""
    machine, versions = part["hardware"], part["versions"]
    where = machine.get("accelerator") or f"{machine['cores']} cores ({machine['processor']}), {machine['threads']} threads"
    quick = " **A quick run: few repetitions.**" if part["quick"] else ""
    lines = [
        f"### {name}",
        f"{part['base']}; {where}, load {part['load_before']} before it began; torch {versions['torch']}, transformers "
        f"{versions['transformers']}; {part['took_seconds']} s.{quick}",
        "",
    ]
    if part["rows"]:
        lines += [*_rows(part["rows"]), ""]
    if part["growth"]:
        lines += [*_growth(part["growth"]), ""]
    return [*lines, *_ratios(part), ""]


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    """A line a row; a column for all that any of them tells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [[_cell(name, row.get(name)) for name in names] for row in rows]
    return _table([HEADS.get(name, name.replace("_", " ")) for name in names], table)


def _growth(rows: list[dict[str, Any]]) -> list[str]:
    """A line a size, a column a way."""
    by, first = next(iter(rows[0])), "first_token_seconds" in rows[0]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    keys = ("first_token_seconds", "answer_seconds") if first else ("seconds",)
    cells = {(row[by], row["way"]): " / ".join(_time(row[key]) for key in keys) + _rate(row) for row in rows}
    table = [[f"{size:,}", *(cells.get((size, way), "") for way in ways)] for size in sorted({row[by] for row in rows})]
    return [*(["First token / whole answer:", ""] if first else []), *_table([by, *ways], table)]


def _rate(row: Mapping[str, Any]) -> str:
    return f", {row['tokens_per_second']:.3g} tokens/s" if "tokens_per_second" in row else ""


def _ratios(part: Mapping[str, Any]) -> list[str]:
    table = []
    for what, ratio in part["ratios"].items():
        (key, value), *others = ratio.items()
        most, least = part["at_most"].get(what), part.get("at_least", {}).get(what)
        wanted = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
        good = value <= most if most is not None else least is None or value >= least
        by_processor = f"{ratio['processor_seconds']:g}" if others else ""
        unit = f" {key}" if key == "kB" else ""
        table.append([what, f"{value:g}{unit}", by_processor, wanted, ("met" if good else "**missed**") if wanted else ""])
    return _table(["ratio", "by the clock", "by the processor", "wanted", ""], table)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_seconds") or name == "seconds":
        return _time(value)
    if "bytes" in name:
        return f"{value:,.0f} B" if value < 10_000 else f"{value / 1000:,.0f} kB"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _time(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _plot(growing: Mapping[str, list[dict[str, Any]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = {name: growth for name, growth in growing.items() if growth}
    figure, axes = plt.subplots(1, len(parts), figsize=(4.2 * len(parts), 3.6), squeeze=False)
    for axis, (name, growth) in zip(axes[0], parts.items(), strict=True):
        by = next(iter(growth[0]))
        key = "seconds" if "seconds" in growth[0] else "first_token_seconds"
        for way in dict.fromkeys(row["way"] for row in growth):
            own = [row for row in growth if row["way"] == way]
            axis.plot([row[by] for row in own], [row[key] for row in own], marker="o", label=way.replace("_", " "))
        axis.set(title=name, xlabel=by, ylabel=key.replace("_", " "), xscale="log", yscale="log")
        sizes = sorted({row[by] for row in growth})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.xaxis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file.with_suffix(".png"), dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    committed = ROOT / "docs" / "results" / "bench.json"
    write_page(json.loads(committed.read_text()), committed)
