"""docs/results/reading.md and the README's table from docs/results/reading.json, and what else was run on these questions."""

# ruff: noqa: E501
from __future__ import annotations

import json
from pathlib import Path

from distilledprag.files import write_section

ROOT = Path(__file__).resolve().parents[1]
FURTHER = {"1,000 questions": "reading-n1000.json", "Half of the rows": "reading-rows-0.5.json"}
METHODS = ("closed_book", "rag", "state", "state_plain", "state_chosen", "shuffled")


def cell(row: dict | None, share: bool) -> str:
    if row is None:
        return ""
    text = f"{row['f1']:.3f}"
    if share and "of_rag" in row and row["method"] not in ("rag", "closed_book", "shuffled"):
        text += f" ({row['of_rag']:.2f})"
    return text


def table(rows: list[dict], *, types: bool) -> str:
    keys = [(row["dataset"], row["type"]) for row in rows if row["method"] == "rag" and (types or row["type"] == "all")]
    found = {(row["dataset"], row["type"], row["method"]): row for row in rows}
    lines = ["| data | n | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 2) + "|"]
    for dataset, kind in keys:
        name = dataset if kind == "all" else f"{dataset}: {kind}"
        cells = [cell(found.get((dataset, kind, method)), True) for method in METHODS]
        lines.append(f"| {name} | {found[(dataset, kind, 'rag')]['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(rows: list[dict]) -> str:
    lines = ["| data | method | n | F1 | 95 % | EM | of RAG | 95 % | adapter bytes | rows | prompt tokens |", "|---" * 11 + "|"]
    for row in rows:
        if row["type"] != "all":
            continue
        share = (f"{row['of_rag']:.3f}", f"{row['of_rag_low']:.3f}-{row['of_rag_high']:.3f}") if "of_rag" in row else ("", "")
        lines.append(
            f"| {row['dataset']} | {row['method']} | {row['n']} | {row['f1']:.3f} | {row['f1_low']:.3f}-{row['f1_high']:.3f} | "
            f"{row['exact_match']:.3f} | {share[0]} | {share[1]} | {row['adapter_bytes']:,} | {row['rows']:.0f} | {row['prompt_tokens']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    record = json.loads((ROOT / "docs/results/reading.json").read_text())
    config, rows = record["config"], record["rows"]
    made = f"seed {config['seed']}, base weights {config['weights']}, states after layer {config['layer']}, "
    made += f"PEFT on layer {config['plain_layer']}, at most {config['max_new_tokens']} new tokens, greedy"
    made += f", {config['checkpoints']['sentence_scorer']}; command: `{config['command']}`"
    page = (
        "# Real questions over real passages\n\nToken F1 (share of plain RAG's in brackets). Made by "
        f"`scripts/make_reading_table.py` from `reading.json`: {made}.\n\n{table(rows, types=True)}\n\n## Details\n\n{details(rows)}\n"
    )
    for title, name in FURTHER.items():
        other = json.loads((ROOT / "docs/results" / name).read_text())
        page += f"\n## {title}\n\n`{name}`: `{other['config']['command']}`.\n\n{details(other['rows'])}\n"
    (ROOT / "docs/results/reading.md").write_text(page)
    write_section(ROOT / "README.md", "made by scripts/make_reading_table.py", table(rows, types=False))


if __name__ == "__main__":
    main()
