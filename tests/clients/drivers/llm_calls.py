"""Simon Willison's `llm` command, with a server named in its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from calls import QUESTION, SCHEMA, run


def llm(server, *arguments):
    with tempfile.TemporaryDirectory() as home:
        lines = [f"- model_id: ours\n  model_name: {server.model}\n  api_base: {server.url}\n  api_key_name: ours",
                 "\n  supports_schema: true\n"]  # fmt: skip
        (Path(home) / "extra-openai-models.yaml").write_text("".join(lines))
        (Path(home) / "keys.json").write_text(json.dumps({"ours": server.key}))
        command = [sys.executable, "-m", "llm", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LLM_USER_PATH": home}, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])
    return done.stdout.strip()


ASK = ["prompt", "-m", "ours", QUESTION, "-o", "temperature", "0", "-o", "max_tokens", "8"]
run("llm (command)", version("llm"), {
    "prompt": lambda server: llm(server, *ASK),
    "prompt, --no-stream": lambda server: llm(server, *ASK, "--no-stream"),
    "prompt, --system": lambda server: llm(server, *ASK, "--system", "Be brief."),
    "prompt, --schema": lambda server: json.loads(
        llm(server, *ASK[:-1], "40", "--no-stream", "--schema", json.dumps(SCHEMA))
    )["kind"],
})  # fmt: skip
