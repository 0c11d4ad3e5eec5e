"""Teacher outputs on disk, so that a second epoch needs no forward pass of the teacher.

One file per training row, named by a hash of everything its content depends on. What is kept of the teacher: the layer outputs
at the compared positions, the `top_k` most probable tokens at the supervised ones, and the document states for the generator, in
half precision. That is (2 M p + (M + 1) s) D bytes and more per row: worth it where the disk is cheaper than the teacher.
p = compared positions, n = supervised positions, s = document tokens of one row, M = layers, D = model dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distilledprag.files import write_atomically
from distilledprag.generators.document_states import DocumentStates


class CacheSettings(Settings):
    """`folder`: where to keep the outputs; `top_k`: tokens kept per supervised position, all others are one bucket."""

    model_config = ConfigDict(extra="forbid")
    folder: Path
    top_k: int = Field(64, gt=0)


Record = dict[str, Tensor]
"""Of one row: `layers` (M, p, D), `ids` (n, k), `log_probabilities` (n, k), `states` (N, s, D)."""


class TeacherCache:
    """Records by key. A damaged or missing file is a miss: the teacher computes it again."""

    def __init__(self, settings: CacheSettings, *fixed: object) -> None:
        """fixed: what the outputs depend on besides the row, such as the base's identity and the temperature."""
        self.settings = settings
        self.fixed = json.dumps([*fixed, settings.top_k], default=str)

    def key(self, row: object) -> str:
        """The name of a row's record; `row` is anything JSON can hold."""
        return hashlib.sha256((self.fixed + json.dumps(row)).encode()).hexdigest()[:32]

    def load(self, keys: Sequence[str]) -> list[Record] | None:
        """The records of a batch, or None if one of them is missing."""
        records = []
        for key in keys:
            try:
                records.append(load_file(self._file(key)))
            except (OSError, SafetensorError):
                return None
        return records

    def store(self, keys: Sequence[str], records: Sequence[Record]) -> None:
        """Write the records of a batch, each file whole or not at all."""
        for key, record in zip(keys, records, strict=True):
            write_atomically(self._file(key), save(record))

    def _file(self, key: str) -> Path:
        return self.settings.folder / key[:2] / f"{key}.safetensors"


def records_of(
    layers: Sequence[Tensor],
    logits: Tensor,
    documents: DocumentStates,
    compared: Tensor,
    supervised: Tensor,
    top_k: int,
    temperature: float,
) -> list[Record]:
    """Cut a batch's teacher outputs into rows. layers: M tensors (P, D); logits (N, V); compared, supervised (B, T) bool."""
    log_probabilities = torch.log_softmax(logits.float() / temperature, dim=-1)
    values, ids = log_probabilities.topk(min(top_k, logits.size(-1)), dim=-1)
    positions, targets = compared.sum(1).tolist(), supervised.sum(1).tolist()
    rows = zip(
        torch.stack(list(layers)).split(positions, dim=1),
        ids.split(targets),
        values.split(targets),
        documents.states.unbind(1),
        documents.mask,
        strict=True,
    )
    return [
        {
            "layers": _half(row),
            "ids": token_ids.to(torch.int32).cpu().contiguous(),
            "log_probabilities": values.half().cpu().contiguous(),
            "states": _half(states[:, mask]),
        }
        for row, token_ids, values, states, mask in rows
    ]


def _half(tensor: Tensor) -> Tensor:
    """Half precision on the CPU; bfloat16 stays, its range may be needed."""
    return tensor.to(tensor.dtype if tensor.dtype == torch.bfloat16 else torch.float16).cpu().contiguous()


def batch_of(
    records: Sequence[Record], device: torch.device | str, dtype: torch.dtype
) -> tuple[list[Tensor], tuple[Tensor, Tensor], DocumentStates]:
    """Put rows together again: layers as M tensors (P, D), (ids, log-probabilities) (N, k), document states.

    Document tokens stand at the beginning of their row, without what was between them.
    """
    layers = list(torch.cat([record["layers"] for record in records], dim=1).to(device, dtype))
    ids = torch.cat([record["ids"] for record in records]).long().to(device)
    values = torch.cat([record["log_probabilities"] for record in records]).float().to(device)
    states = pad_sequence([record["states"].transpose(0, 1) for record in records], batch_first=True)  # (B, S, N, D)
    lengths = torch.tensor([record["states"].size(1) for record in records])
    mask = torch.arange(states.size(1)) < lengths[:, None]
    return layers, (ids, values), DocumentStates(states.permute(2, 0, 1, 3).to(device, dtype), mask.to(device))
