"""The records of a run on disk: `identity.json`, `questions.jsonl` (one line a finished question and method), `summary.json`.

A line is on the disk before the next question starts, so a run that is killed loses one question at most.
Knows nothing about methods and metrics.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically

Record = dict[str, Any]


class Records:
    """Opens the folder of a run, new or begun before.

    identity: what the records depend on. Raises ConfigError when the folder holds the records of another run.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.file = folder / "questions.jsonl"
        wanted = json.loads(json.dumps(identity, default=str))
        written = folder / "identity.json"
        if written.exists():
            if json.loads(written.read_text()) != wanted:
                raise ConfigError(f"{folder} holds a run of another recipe, base or checkpoint; choose another output folder")
        else:
            write_atomically(written, json.dumps(wanted, indent=1) + "\n")
        self.done: dict[tuple[str, str], Record] = {}
        if self.file.exists():
            self._take_up()

    def _take_up(self) -> None:
        """Read what is there; a last line that was cut off is removed."""
        data = self.file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with self.file.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        for line in whole.splitlines():
            record = json.loads(line)
            self.done[record["method"], record["key"]] = record

    def add(self, record: Record) -> None:
        """Append one; when this returns it is on the disk."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[record["method"], record["key"]] = record

    def finish(self, summary: dict[str, Any]) -> None:
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1, default=str) + "\n")
