"""Tables and pictures from JSON files of evaluations and audits: evidence.md, leak.png, rows.png, learning.png.

    python scripts/make_evidence_tables.py --out docs/results                    from evidence.json there (`make evidence`)
    python scripts/make_evidence_tables.py --out X --evaluations reading.json ... --audits audit.json ...     from single files
    ... --page docs/threat-model.md                                              tables of the audits into that page, and leak.png

leak.png: F1 against the share of tokens that the strongest attacker got, a point for each setting that both were measured for;
plain RAG (leak 1) and closed book (leak 0) are the corners.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from distilledprag.files import write_atomically, write_section

ATTACKS = ("nearest", "linear", "decoder", "decoder_shuffled", "repeat")
SHARES = ("tokens", "rare_tokens", "names_and_numbers", "rouge1", "rouge2")
DATASET = "squad_dev"  # of the figure, where it was measured

Setting = tuple[str, int | None, float, str]
"""method, layer (None: not a state adapter), noise, precision of the rows"""


def evaluated(record: dict[str, Any]) -> Iterable[tuple[Setting, dict[str, Any]]]:
    """(setting, row) of the rows over all types of an evaluation: `dprag evaluate --data`'s file, or a recipe's summary."""
    config = record["config"]
    options = config.get("recipe", config)
    for row in record["rows"]:
        if row["type"] == "all":
            states = row["method"].startswith(("state", "shuffled")) and "_r" not in row["method"]
            layer = options.get("layer") if states else None
            yield (row["method"], layer, options.get("noise") or 0.0, options.get("rows_sent_as") or "int8"), row


def audited(record: dict[str, Any]) -> Iterable[tuple[Setting, dict[str, Any]]]:
    """(setting, row) of an audit; chosen rows are the method `state_chosen`."""
    for row in record["rows"]:
        dial = row["dial"]
        method = "state_chosen" if dial["rows"] < 1 else dial["method"]
        yield (method, dial["layer"], dial["noise"], dial["precision"]), row


def score(row: dict[str, Any], name: str) -> str:
    found = row["scores"].get(name)
    return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else ""


def leak_table(audits: Sequence[dict[str, Any]]) -> str:
    head = "| adapter | attacker | tokens | rare tokens | names, numbers | ROUGE-1 | ROUGE-2 | tokens by chance | n |"
    lines = [head, "|---" * 9 + "|"]
    for record in audits:
        for row in record["rows"]:
            if row["attacker"] != "questions":
                cells = [score(row, name) for name in SHARES]
                chance = f"{row['chance']['tokens']:.2f}"
                count = row["scores"]["tokens"]["n"]
                lines.append(f"| {row['name']} | {row['attacker']} | {' | '.join(cells)} | {chance} | {count} |")
    return "\n".join(lines)


def asked_table(audits: Sequence[dict[str, Any]]) -> str:
    lines = ["| adapter | F1 | exact match | questions |", "|---|---|---|---|"]
    for record in audits:
        for row in record["rows"]:
            if row["attacker"] == "questions":
                lines.append(f"| {row['name']} | {score(row, 'f1')} | {score(row, 'exact_match')} | {row['scores']['f1']['n']} |")
    return "\n".join(lines)


def evaluation_table(results: Sequence[tuple[str, dict[str, Any]]]) -> str:
    lines = [
        "| run | data | method | n | F1 | 95 % | EM | of RAG | adapter bytes | rows | prompt tokens | seconds |",
        "|---" * 12 + "|",
    ]
    for name, record in results:
        for row in record["rows"]:
            if row["type"] == "all":
                share = f"{row['of_rag']:.2f} ({row['of_rag_low']:.2f}-{row['of_rag_high']:.2f})" if "of_rag" in row else ""
                lines.append(
                    f"| {name} | {row['dataset']} | {row['method']} | {row['n']} | {row['f1']:.3f} | {row['f1_low']:.3f}-"
                    f"{row['f1_high']:.3f} | {row['exact_match']:.3f} | {share} | {row['adapter_bytes']:,} | {row['rows']:.0f} | "
                    f"{row['prompt_tokens']:.0f} | {row['seconds']:.2f} |"
                )
    return "\n".join(lines)


def training_table(runs: Sequence[dict[str, Any]]) -> str:
    lines = ["| run | steps | minutes | answer's cross-entropy, first and last | validation at the end |", "|---" * 5 + "|"]
    for run in runs:
        curve, scored = run["curve"], run["validation"][-1] if run["validation"] else {}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scored.items() if name != "step")
        ends = f"{curve[0]['loss_generation']:.2f}, {curve[-1]['loss_generation']:.2f}"
        lines.append(f"| {run['name']} | {curve[-1]['step']:,} | {run['seconds'] / 60:.0f} | {ends} | {shown} |")
    return "\n".join(lines)


def points(evaluations: Sequence[dict[str, Any]], audits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """label, leak, f1 of every setting that was both evaluated (on one data set) and audited, and of the corners."""
    rows = [pair for record in evaluations for pair in evaluated(record)]
    datasets = [row["dataset"] for _, row in rows]
    dataset = DATASET if DATASET in datasets or not datasets else datasets[0]
    f1 = {setting: row["f1"] for setting, row in rows if row["dataset"] == dataset}
    leaks: dict[Setting, dict[str, Any]] = {}
    for record in audits:
        for setting, row in audited(record):
            if row["attacker"] in ATTACKS and setting[0] not in ("rag", "closed_book"):
                leak = row["scores"]["tokens"]["mean"]
                if setting not in leaks or leak > leaks[setting]["leak"]:
                    leaks[setting] = {"label": row["name"], "leak": leak, "attacker": row["attacker"]}
    found = []
    for setting, leak in leaks.items():
        known = f1.get(setting, f1.get((setting[0], None, 0.0, setting[3])))
        if known is not None:
            found.append({**leak, "f1": known, "dataset": dataset})
    for method, leak in (("rag", 1.0), ("closed_book", 0.0)):
        known = next((value for setting, value in f1.items() if setting[0] == method), None)
        if known is not None:
            found.append({"label": method, "leak": leak, "attacker": "", "f1": known, "dataset": dataset})
    return found


def draw_leak(found: Sequence[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for number, point in enumerate(found):
        corner = point["label"] in ("rag", "closed_book")
        axes.plot(point["leak"], point["f1"], "s" if corner else "o", color="black" if corner else f"C{number % 10}")
        place = (6, -12) if corner else (-4, 6)
        side = "left" if corner else "right"
        where = (point["leak"], point["f1"])
        axes.annotate(point["label"], where, fontsize="small", xytext=place, textcoords="offset points", ha=side)
    axes.set(xlim=(-0.03, 1.12), ylim=(0, None), xlabel="share of a passage's tokens that the strongest attacker got")
    axes.set(ylabel=f"F1, {found[0]['dataset']}", title="What is answered against what is given away")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def draw_rows(evaluations: Sequence[dict[str, Any]], file: Path) -> bool:
    """F1 as a share of plain RAG's, by rows sent; nothing to draw without a compressed method."""
    found: dict[str, dict[str, Any]] = {}
    for record in evaluations:
        for (method, _, noise, _), row in evaluated(record):
            if row["dataset"] == DATASET and method.startswith("state") and "of_rag" in row and not noise:
                found.setdefault(method, row)
    if not any("_r" in method for method in found):
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, row in found.items():
        error = [[row["of_rag"] - row["of_rag_low"]], [row["of_rag_high"] - row["of_rag"]]]
        axes.errorbar(row["rows"], row["of_rag"], yerr=error, fmt="o", label=method)
    axes.axhline(0.97, linestyle="--", color="grey", label="PISCO, published: 16 tokens a row, 7 to 10 billion parameters")
    axes.set(xlim=(0, None), ylim=(0, None), xlabel="rows sent", ylabel="F1 as a share of plain RAG's", title=DATASET)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    return True


def draw_learning(runs: Sequence[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot([p["step"] for p in run["curve"]], [p["loss_generation"] for p in run["curve"]], label=run["name"])
    axes.set(xlabel="step", ylabel="cross-entropy of the answer", title="Learning curves, same questions")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def write_on_page(page: Path, audits: Sequence[dict[str, Any]]) -> None:
    commands = "\n".join(f"`{record['config']['command']}`" for record in audits)
    tables = [leak_table(audits), *([asked_table(audits)] if any_asked(audits) else [])]
    write_section(page, "made by scripts/make_evidence_tables.py", "\n\n".join([*tables, f"Made by {commands}"]))


def any_asked(audits: Sequence[dict[str, Any]]) -> bool:
    return any(row["attacker"] == "questions" for record in audits for row in record["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--evaluations", nargs="*", type=Path, default=[])
    parser.add_argument("--audits", nargs="*", type=Path, default=[])
    parser.add_argument("--page", type=Path, help="a markdown page that gets the audits' tables between its two markers")
    given = parser.parse_args()
    results = [(path.stem, json.loads(path.read_text())) for path in given.evaluations]
    audits = [json.loads(path.read_text()) for path in given.audits]
    trained: list[dict[str, Any]] = []
    if not results and not audits:
        runs = json.loads((given.out / "evidence.json").read_text())["runs"]
        results = [(run["name"], run) for run in runs if run["kind"] == "evaluate"]
        audits = [run for run in runs if run["kind"] == "audit"]
        trained = [run for run in runs if run.get("curve")]
    made = "Made by `scripts/make_evidence_tables.py` from the JSON files beside this page; each says its command, seed, base "
    made += "weights and checkpoints. Intervals are 95 % bootstrap intervals."
    parts = ["# Evidence", made]
    if results:
        parts += ["## Answers", evaluation_table(results)]
    if draw_rows([record for _, record in results], given.out / "rows.png"):
        parts += ["## Fewer rows", "![F1 by rows sent](rows.png)"]
    if trained:
        draw_learning(trained, given.out / "learning.png")
        parts += ["## Learning curves", training_table(trained), "![cross-entropy by step](learning.png)"]
    if audits:
        parts += ["## What an adapter gives away", leak_table(audits)]
        if any_asked(audits):
            parts += ["The base, asked about other facts than the one that was asked:", asked_table(audits)]
    found = points([record for _, record in results], audits)
    if any(point["label"] not in ("rag", "closed_book") for point in found):
        write_atomically(given.out / "leak.json", json.dumps(found, indent=1) + "\n")
        draw_leak(found, given.out / "leak.png")
        parts += ["## F1 against leak", "![F1 against the share of tokens that an attacker got](leak.png)"]
    if given.page:
        write_on_page(given.page, audits)
    else:
        write_atomically(given.out / "evidence.md", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
