"""A training run on disk: its log, its newest checkpoint, its model, and the recipe that it follows.

Both training loops write it (`loop.fit` and `reader_training.ReaderTraining`), so a run of either kind survives a kill in the
same way: the log never holds steps that the checkpoint does not, and a run is only resumed with the recipe it began with.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder, restore_folder, write_atomically

# What a resumed run may do differently; everything else would join two different runs in one curve.
MAY_CHANGE = frozenset(
    {
        "output",
        "training.steps",
        "training.minutes",
        "training.evaluate_every",
        "training.checkpoint_every",
        "training.checkpoint_minutes",
        "training.log_every",
        "training.tensorboard",
    }
)


def read_log(file: Path) -> list[dict[str, Any]]:
    """The records of a run's `log.jsonl`. A last line that a killed run left unfinished is passed over.

    Raises CheckpointError for any other line that is no record.
    """
    lines = file.read_text(errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{file}, line {number} is damaged ({line[:40]!r}); delete that line") from error
        records.append(record)
    return records


class RunFolder:
    """`log.jsonl` (one line a step), `recipe.json`, `state/` (the newest checkpoint), `model/`, `tensorboard/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.model = path / "model"
        self.log = path / "log.jsonl"
        self.recipe = path / "recipe.json"

    def begin(self, resume: bool, recipe: dict[str, Any]) -> int:
        """Prepare the folder and return the step to start at. Without `resume` an older run is never overwritten.

        Raises ConfigError when the folder holds a run and `resume` is false, or a checkpoint of another recipe (see
        MAY_CHANGE); CheckpointError when its files are damaged.
        """
        if not resume and (self.log.exists() or self.state.exists()):
            raise ConfigError(f"{self.path} already holds a run; pass --resume to go on, or choose another output folder")
        self.path.mkdir(parents=True, exist_ok=True)
        if resume:
            restore_folder(self.state)
            restore_folder(self.model)
        step = self._progress()
        if step:
            self._require_recipe(recipe)
            kept = [record for record in read_log(self.log) if record["step"] <= step] if self.log.exists() else []
            write_atomically(self.log, "".join(json.dumps(record) + "\n" for record in kept))
        else:
            self.log.unlink(missing_ok=True)
        write_atomically(self.recipe, json.dumps(recipe, indent=2) + "\n")
        return step

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log; when this returns it is on the disk."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """An empty folder to write a checkpoint into; when the block ends well it becomes `state/`, the checkpoint of `step`."""
        with replace_folder(self.state) as temporary:
            yield temporary
            (temporary / "progress.json").write_text(json.dumps({"step": step}))

    def _progress(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        if not self.state.exists():
            return 0
        file = self.state / "progress.json"
        try:
            return int(json.loads(file.read_text())["step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} does not say which step the checkpoint is of ({error}); delete {self.state} to begin the run again"
            ) from error

    def _require_recipe(self, recipe: dict[str, Any]) -> None:
        if not self.recipe.exists():
            return
        try:
            begun = json.loads(self.recipe.read_text())
        except ValueError as error:
            raise CheckpointError(
                f"{self.recipe} is damaged ({error}); delete it if you are sure that the run had the recipe given"
            ) from error
        changes = [text for key, text in _changes(begun, json.loads(json.dumps(recipe))) if key not in MAY_CHANGE]
        if changes:
            raise ConfigError(
                f"{self.path} holds a run with another recipe: {'; '.join(changes)}. Put that back to resume it, or choose "
                "another output folder for a new run"
            )


def _changes(begun: Any, now: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys whose values differ, with a text that says how. A missing key counts as null."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*begun, *now]):
            yield from _changes(begun.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif begun != now:
        yield key, f"{key} was {_shown(begun)} and is now {_shown(now)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
