"""Cases -> the table format x feature of docs/formats.md."""

from __future__ import annotations

from collections.abc import Sequence

from reader_cases import Case


def table(cases: Sequence[Case]) -> str:
    """One row per feature, one column per format; a cell is the outcome that its case demands."""
    suffixes = list(dict.fromkeys(case.suffix for case in cases))
    outcomes = {(case.feature, case.suffix): case.outcome for case in cases}
    lines = ["| | " + " | ".join(suffixes) + " |", "|---" * (len(suffixes) + 1) + "|"]
    for feature in dict.fromkeys(case.feature for case in cases):
        lines.append(f"| {feature} | " + " | ".join(outcomes.get((feature, suffix), "") for suffix in suffixes) + " |")
    return "\n".join(lines)
