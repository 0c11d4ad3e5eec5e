"""An audit's report as one HTML page: what it means in words, a table, and what attackers wrote. It holds text of the
passages."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from distilledprag.evaluation.report import STYLE

COLUMNS = {
    "tokens": "tokens",
    "rare_tokens": "rare tokens",
    "names_and_numbers": "names and numbers",
    "rouge1": "ROUGE-1 recall",
    "rouge2": "ROUGE-2 recall",
}
ATTACKS = {
    "nearest": "nearest embedding",
    "linear": "linear, closed form",
    "decoder": "trained decoder",
    "decoder_shuffled": "trained decoder, rows shuffled",
    "repeat": "the base, asked to repeat the passage",
    "questions": "the base, asked about other facts",
}
MEANING = (
    "Shares are of the whole passage, whatever part of it was sent. The engine's operator holds the base and the adapter; each "
    "attacker had passages of its own to learn from, and never saw these. In brackets: the 95 % interval, and what the same "
    "attacker gets out of another passage's adapter (common words alone give that much). Whoever holds base and adapter can also "
    "put any question to it: that is what the adapter is for. The attacker of arXiv 2509.01088 reached 9 % ROUGE-2 recall on "
    "adapters of that paper."
)


def report_page(config: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """records: as `run.py` keeps them."""
    reading = [record for record in records if record["attacker"] != "questions"]
    asking = [record for record in records if record["attacker"] == "questions"]
    parts = [f"<p>{_strongest(reading)}</p>", f"<p>{html.escape(MEANING)}</p>", _table(reading)]
    if asking:
        rows = "".join(
            f"<tr><td>{html.escape(one['name'])}<td>{_cell(one, 'f1')}<td>{_cell(one, 'exact_match')}"
            f"<td>{one['scores']['f1']['n']}"
            for one in asking
        )
        head = "<tr><th>adapter<th>F1<th>exact match<th>questions"
        parts.append(f"<h2>Questions about other facts</h2><table>{head}{rows}</table>")
    parts.append("<h2>What was written</h2>")
    parts += [_examples(record) for record in reading if record["examples"]]
    made = html.escape(", ".join(f"{name}: {value}" for name, value in config.items()))
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>What an adapter gives away</title><style>{STYLE}</style>"
        f"<h1>What an adapter gives away</h1>{body}<p><small>{made}</small></html>\n"
    )


def _strongest(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "Nothing has been measured yet."
    best = max(records, key=lambda one: one["scores"]["tokens"]["mean"])
    scores = best["scores"]
    named = [(name, what) for name, what in COLUMNS.items() if name in scores and "ROUGE" not in what]
    told = [f"{scores[name]['mean']:.0%} of the {what}" for name, what in named]
    who = f"{ATTACKS[best['attacker']]} on {best['name']}"
    return html.escape(f"The attacker that got most ({who}) got {', '.join(told)}.")


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{name}" for name in ("adapter", "attacker", *COLUMNS.values(), "passages"))
    rows = "".join(
        f"<tr><td>{html.escape(one['name'])}<td>{ATTACKS[one['attacker']]}"
        + "".join(f"<td>{_cell(one, name)}" for name in COLUMNS)
        + f"<td>{one['scores']['tokens']['n']}"
        for one in records
    )
    return f"<table><tr>{head}{rows}</table>"


def _cell(record: Mapping[str, Any], name: str) -> str:
    score = record["scores"].get(name)
    if score is None:
        return ""
    chance = record["chance"].get(name)
    beside = "" if chance is None else f"; {chance:.0%}"
    return f"{score['mean']:.0%} ({score['low']:.0%} to {score['high']:.0%}{beside})"


def _examples(record: Mapping[str, Any]) -> str:
    shown = "".join(
        f"<p><b>passage</b> {html.escape(one['passage'])}<p><b>written</b> {html.escape(one['written'])}"
        for one in record["examples"]
    )
    title = f"{record['name']}: {ATTACKS[record['attacker']]}"
    return f"<details><summary>{html.escape(title)}</summary>{shown}</details>"
