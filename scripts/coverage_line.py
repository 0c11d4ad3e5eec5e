"""Says in one line which share of the package's lines the last `make test` ran, in all and room by room.

Lines that only another process ran (a server, a process that reads files) do not count.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

PACKAGE = "src/distilledprag/"


def line(measured: dict) -> str:
    """`measured`: SlipCover's JSON."""
    ran: Counter[str] = Counter()
    all_lines: Counter[str] = Counter()
    for name, file in measured["files"].items():
        within, _, _ = name.partition(PACKAGE)[2].rpartition("/")
        for room in ("", within.partition("/")[0] or "others"):
            ran[room] += len(file["executed_lines"])
            all_lines[room] += len(file["executed_lines"]) + len(file["missing_lines"])
    shares = {room: f"{100 * ran[room] / all_lines[room]:.0f}" for room in sorted(all_lines)}
    total = shares.pop("")
    return f"coverage: {total} % of {all_lines['']} lines ({', '.join(f'{room} {share}' for room, share in shares.items())})"


if __name__ == "__main__":
    print(line(json.loads(Path("build/coverage.json").read_text())))
