"""What every driver does: make each call against both servers, and print what came of it, a line of JSON each.

Arguments: addresses of engine and gateway (ending in /v1), the key. Runs in the clients' environment, which has nothing of ours.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUESTION = "Where does Anna Tovberg live?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {
    "title": "Place",
    "description": "A place.",
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["town", "village"]}, "coast": {"type": "boolean"}},
    "required": ["kind", "coast"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    model: str
    key: str


def run(client: str, version: str, calls: dict[str, Callable[[Server], Any]]) -> None:
    """A call's result must be true: a text, a list, a number."""
    engine, gateway, key = sys.argv[1:4]
    for server in (Server("engine", engine, "base", key), Server("gateway", gateway, "distilledprag", key)):
        for name, call in calls.items():
            try:
                made = call(server)
                if inspect.isawaitable(made):
                    raise TypeError("a call must be run to its end")
                result = "answered" if made else f"empty: {made!r}"
            except Exception as error:
                status = getattr(error, "status_code", None)
                param = getattr(error, "param", None) or ((getattr(error, "body", None) or {}).get("param"))
                said = f"{status} {param or ''}".strip() if status else f"{type(error).__name__}: {str(error)[:300]}"
                result = f"refused: {said}" if status and status < 500 else f"failed: {said}"
            print(json.dumps({"client": client, "version": version, "server": server.name, "call": name, "result": result}))
