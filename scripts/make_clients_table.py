"""Put what `make test-clients` measured into docs/clients.md: client x call x server."""

from __future__ import annotations

import json
import os
from pathlib import Path

from distilledprag.files import write_section

ROOT = Path(__file__).parents[1]
HOME = Path(os.environ.get("DPRAG_CLIENTS", ROOT / "build" / "clients"))
PAGE = ROOT / "docs" / "clients.md"


def main() -> None:
    files = sorted(HOME.glob("*_calls.*.json"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        version = "" if record["version"] == "pattern" else f" {record['version']}"
        key = (f"{record['client']}{version}", record["call"])
        rows.setdefault(key, {})[record["server"]] = record["result"]
    lines = ["| client | call | engine | gateway |", "|---|---|---|---|"]
    lines += [f"| {client} | {call} | {made['engine']} | {made['gateway']} |" for (client, call), made in rows.items()]
    write_section(PAGE, "made by scripts/make_clients_table.py", "\n".join(lines))
    print(f"{len(rows)} calls of {len(files)} clients in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
