"""Writes docs/results/world.md and the tables of README and model card, from docs/results/world.json (`make evaluate`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilledprag.evaluation.targets import checks
from distilledprag.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
CARD = ROOT / "src" / "distilledprag" / "bundled" / "MODEL_CARD.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- made by scripts/make_tables.py -->", "<!-- end -->"


def table(rows: list[dict[str, Any]], key: str) -> list[str]:
    """One line per split, kind and number of documents; one column per method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["split"], row["kind"], row["documents"]), {})[row["method"]] = row
    lines = ["| split | kind | documents | " + " | ".join(methods) + " |", "|---" * (3 + len(methods)) + "|"]
    for (split, kind, documents), values in cells.items():
        shown = [f"{values[method][key]:.3f}" if method in values else "" for method in methods]
        lines.append(f"| {split} | {kind} | {documents} | " + " | ".join(shown) + " |")
    return lines


def main() -> None:
    result = json.loads((RESULTS / "world.json").read_text())
    config, rows = result["config"], result["rows"]
    targets = ["| target (test split) | measured | wanted | |", "|---|---|---|---|"]
    targets += [
        f"| {what} | {got:.3f} | {wanted:.3f} | {'met' if met else '**missed**'} |" for what, got, wanted, met in checks(rows)
    ]
    text = [
        "# The record world's table",
        "",
        "Made by `scripts/make_tables.py` from `world.json`. Greedy decoding, exact match; 95 % intervals are in the JSON.",
        f"Command: `{config['command']}`, n = {config['n']} per row, seed {config['seed']}, world `{config['world']}`, "
        f"base `{config['base']['weights']}`, "
        f"generators {', '.join(f'{name} `{identity}`' for name, identity in config['generators'].items())}.",
        "",
        "## Exact match",
        "",
        *table(rows, "exact_match"),
        "",
        "A bridge question needs at least three documents: two to hop over and one that could be mistaken for the second.",
        "",
        "## Targets",
        "",
        *targets,
        "",
        "## Token F1",
        "",
        *table(rows, "f1"),
        "",
        f"Median seconds: {json.dumps(config['seconds'])} on {json.dumps(config['hardware'])}.",
    ]
    write_atomically(RESULTS / "world.md", "\n".join(text) + "\n")
    test_rows = [row for row in rows if row["split"] == "test"]
    write_between(CARD, [*table(test_rows, "exact_match"), "", *targets])
    write_between(README, table([row for row in test_rows if row["documents"] <= 3], "exact_match"))


def write_between(file: Path, lines: list[str]) -> None:
    """Put `lines` in the place of what stands between the markers of `file`."""
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomically(file, "\n".join([before + BEGIN, *lines, END + after]))


if __name__ == "__main__":
    main()
