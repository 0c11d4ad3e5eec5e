"""Clients that are not ours, in an environment of their own (`make test-clients`), against both servers over real sockets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from clients_stage import KEY

HOME = Path(os.environ.get("DPRAG_CLIENTS", "build/clients")).resolve()
DRIVERS = Path(__file__).parent / "drivers"
# Calls that must be refused, and the field that the refusal names. All others must be answered.
REFUSED = {
    ("*", "chat, tools"): "400 tools",
    ("*", "completion, tools"): "400 tools",
    ("*", "bind_tools"): "400 tools",
    ("*", "responses, previous_response_id"): "400 previous_response_id",
    ("*", "embeddings"): "404",
    ("engine", "chat, max_tokens above the engine's bound"): "400 max_tokens",
    ("gateway", "completions (text)"): "404",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (HOME / "venv").exists(), reason="`make test-clients` installs the clients first"),
]


@pytest.mark.parametrize("driver", sorted(file.name for file in DRIVERS.glob("*_calls.*")))
def test_every_call_of_a_client_is_answered_or_refused_by_its_field(driver, stage):
    arguments = [DRIVERS / driver, stage.engine.url, stage.gateway.url, KEY]
    command = ["node", *arguments, HOME / "node"] if driver.endswith(".mjs") else [HOME / "venv" / "bin" / "python", *arguments]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    assert len({record["server"] for record in records}) == 2
    (HOME / f"{driver}.json").write_text("\n".join(map(json.dumps, records)) + "\n")
    wrong = []
    for record in records:
        keys = [(record["server"], record["call"]), ("*", record["call"])]
        wanted = next((f"refused: {REFUSED[key]}" for key in keys if key in REFUSED), "answered")
        if record["result"] != wanted:
            wrong.append(record)
    assert not wrong
