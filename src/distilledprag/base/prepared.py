"""A prepared base on disk: what `dprag prepare-base` writes beside the model's own files, and where its encoder is.

    <base>/           the served base
        distilledprag.json                               the record
        distilledprag/masks.safetensors                  A of the plain PEFT path
        distilledprag/sentence_scorer.safetensors        what chooses sentences, if there is one (generators/cross_encoder.py)
    <base>-encoder/   the trusted side's part of it: embeddings and the layers that encode; the same files beside them

They have a folder of their own because other servers take every safetensors file beside a model's for its weights.

Imports no torch, so that commands which need only a folder's name or record start quickly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.errors import CheckpointError

RECORD = "distilledprag.json"
MASKS, SCORER_FILE = "masks.safetensors", "sentence_scorer.safetensors"
_PARTS = "distilledprag"


@dataclass(frozen=True)
class PreparedRecord:
    """How a base was prepared.

    layer: after which states are written on the exact path. plain_layer: the layer that plain PEFT adapters change.
    first_numbered, masks: id of the first numbered mask token, and how many there are (ids are consecutive).
    reader: whether a trained reader is merged. identity: the served base's, also in its encoder's record.
    measured: how `layer` was chosen (`layer_choice.LayerTable`); None where it was given, or is what a reader was trained for.
    """

    layer: int
    plain_layer: int
    first_numbered: int
    masks: int
    reader: bool
    identity: dict[str, str]
    measured: dict[str, Any] | None = None

    @property
    def numbered(self) -> range:
        """Token ids of the numbered masks."""
        return range(self.first_numbered, self.first_numbered + self.masks)


def prepared_record(folder: str | Path) -> PreparedRecord:
    """The record of a prepared base or encoder. Raises CheckpointError for a folder that `prepare_base` did not write."""
    file = Path(folder) / RECORD
    try:
        return PreparedRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{str(folder)!r} is no prepared base ({RECORD} is missing or unreadable); make one with "
            f"`dprag prepare-base {folder} --out DIR` and use DIR"
        ) from error


def part_of(folder: str | Path, name: str) -> Path:
    """Where a prepared base has its `MASKS` and its `SCORER_FILE`."""
    return Path(folder) / _PARTS / name


def encoder_folder(base: str | Path) -> Path:
    """Where the trusted side's part of a prepared base lies."""
    return Path(base).with_name(Path(base).name + "-encoder")
