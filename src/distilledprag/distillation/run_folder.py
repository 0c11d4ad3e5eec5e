"""A training run on disk: its log, its newest checkpoint, its model, and the recipe that it follows.

Both training loops write it (`loop.fit` and `reader_training.ReaderTraining`), so a run of either kind survives a kill in the
same way: the log never holds steps that the checkpoint does not, and a run is only resumed with the recipe it began with.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.files import replace_folder, restore_folder, write_atomically
from distilledprag.journal import Journal

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
        "training.shard_base",
        "training.tensorboard",
    }
)


class RunFolder:
    """`log.jsonl` (one line a step), `recipe.json`, `state/` (the newest checkpoint), `model/`, `tensorboard/`.

    A context manager, entered by one process at a time. Without `resume` an older run is never overwritten; `step` is then where
    to begin: 0, or the step of the checkpoint to go on from.
    Raises ConfigError when the folder holds a run and `resume` is false, a checkpoint of another recipe (see MAY_CHANGE), or is
    in use; CheckpointError when its files are damaged.
    """

    def __init__(self, path: Path, recipe: dict[str, Any], resume: bool = False) -> None:
        self.path = path
        self.state = path / "state"
        self.model = path / "model"
        self.log = path / "log.jsonl"
        self.step = 0
        self._recipe_file = path / "recipe.json"
        self._recipe, self._resume = recipe, resume
        self._journal = Journal(self.log)

    def __enter__(self) -> RunFolder:
        if not self._resume and (self.log.exists() or self.state.exists()):
            raise ConfigError(f"{self.path} already holds a run; pass --resume to go on, or choose another output folder")
        self.path.mkdir(parents=True, exist_ok=True)
        if self._resume:
            restore_folder(self.state)
            restore_folder(self.model)
        self.step = self._progress()
        if self.step:
            self._require_recipe()
        try:
            self._journal.__enter__()
            self._journal.drop_from(lambda record: not self.step or record.get("step", 0) > self.step)
        except InputError as error:
            raise CheckpointError(str(error)) from error
        write_atomically(self._recipe_file, json.dumps(self._recipe, indent=2) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log; when this returns it is on the disk."""
        self._journal.append(record)

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

    def _require_recipe(self) -> None:
        if not self._recipe_file.exists():
            return
        try:
            begun = json.loads(self._recipe_file.read_text())
        except ValueError as error:
            raise CheckpointError(
                f"{self._recipe_file} is damaged ({error}); delete it if you are sure that the run had the recipe given"
            ) from error
        changes = [text for key, text in _changes(begun, json.loads(json.dumps(self._recipe))) if key not in MAY_CHANGE]
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
