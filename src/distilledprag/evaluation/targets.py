"""What the bundled model must reach on the record world's test split, as ratios to RAG, and whether it does."""

from __future__ import annotations

from typing import Any

RAG_SINGLE = {1: 0.97, 2: 0.95, 3: 0.93}
STUDENT_SINGLE = {1: 0.98, 2: 0.95, 3: 0.95}
STUDENT_HOPS = 0.90
SHUFFLED_MARGIN = 0.05


def checks(rows: list[dict[str, Any]]) -> list[tuple[str, float, float, bool]]:
    """(what, measured, wanted, met) for every target that the rows speak of."""
    table = {(r["method"], r["kind"], r["documents"]): r["exact_match"] for r in rows if r["split"] == "test"}
    found: list[tuple[str, float, float, bool]] = []

    def add(what: str, value: float, wanted: float, most: bool = False) -> None:
        found.append((what, value, wanted, value <= wanted if most else value >= wanted))

    for (method, kind, documents), value in sorted(table.items()):
        place = f"{kind}, {documents} document{'s' * (documents > 1)}"
        reference = table.get(("rag", kind, documents))
        closed = table.get(("closed_book", kind, documents))
        if method == "rag" and kind == "single":
            add(f"RAG, {place}", value, RAG_SINGLE[documents])
        if method == "distilled_per_rank" and reference:
            wanted = STUDENT_SINGLE[documents] if kind == "single" else STUDENT_HOPS
            add(f"per_rank / RAG, {place}", value / reference, wanted)
        if method == "shuffled" and closed is not None:
            add(f"shuffled, {place}", value, closed + SHUFFLED_MARGIN, most=True)
    return found
