"""The records of a run on disk: `identity.json`, `questions.jsonl` (one line a finished question and method), `summary.json`.

A line is on the disk before the next question starts, so a run that is killed loses one batch of questions
at most.
Knows nothing about methods and metrics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self.done[record["method"], record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.file}, line {number} is damaged; delete that line, and its question is asked again"
                ) from error

    def add(self, records: Sequence[Record]) -> None:
        """Append them; when this returns they are on the disk."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.done |= {(record["method"], record["key"]): record for record in records}

    def finish(self, summary: dict[str, Any]) -> None:
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1, default=str) + "\n")
