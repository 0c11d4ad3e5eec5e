"""Rows of an evaluation that is still running, kept on disk so that a killed run goes on where it was.

This module knows nothing of methods and metrics; a row is a JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilledprag.files import write_atomically

Row = dict[str, Any]


class PartialRows:
    """Finished rows beside the `result` file that they will end up in, as `<result>.partial`.

    identity: what the rows depend on (checkpoints, seed, number of questions, world); rows of another identity are
    dropped. key: the fields of a row that say which one it is.
    """

    def __init__(self, result: Path | None, identity: dict[str, Any], key: tuple[str, ...]) -> None:
        self.path = result and result.with_name(result.name + ".partial")
        self.identity = json.loads(json.dumps(identity))
        self.key = key
        self.rows: dict[tuple, Row] = {self._key(row): row for row in self._kept()}

    def _key(self, row: Row) -> tuple:
        return tuple(row[field] for field in self.key)

    def _kept(self) -> list[Row]:
        if self.path is None or not self.path.exists():
            return []
        try:
            kept = json.loads(self.path.read_text())
            return kept["rows"] if kept["identity"] == self.identity else []
        except (json.JSONDecodeError, KeyError, TypeError):
            return []  # not ours or damaged: measured again

    def get(self, **fields: Any) -> Row | None:
        """The finished row with these key fields, if there is one."""
        return self.rows.get(tuple(fields[field] for field in self.key))

    def add(self, row: Row) -> None:
        """Keep a finished row; when this returns it is on the disk."""
        self.rows[self._key(row)] = row
        if self.path:
            write_atomically(self.path, json.dumps({"identity": self.identity, "rows": list(self.rows.values())}))

    def finish(self) -> None:
        """The result is written: the partial file goes."""
        if self.path:
            self.path.unlink(missing_ok=True)
