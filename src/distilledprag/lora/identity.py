"""BaseIdentity: which base model an adapter belongs to, and the refusal when it meets another one.

D = hidden size of the base model.
Adapters, learned generators and prepared bases all carry a `BaseIdentity`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from distilledprag.base.architecture import embedding_table
from distilledprag.errors import CheckpointError, IncompatibleBaseError

# What decides the shape and the meaning of an adapter. Everything else in a configuration (paths, dtype,
# library version, token ids, cache flags) changes when a model is copied or saved again, and must not change
# the hash.
_CONFIG_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "tie_word_embeddings",
)
LONGEST_TEXT = 512  # characters


def is_plain_text(value: Any) -> bool:
    """One short printable line. Such texts also come from strangers and end in logs and settings files."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


def config_hash(config: Any) -> str:
    """SHA-256 (hex) of a `transformers` configuration's architecture; same for every dtype and path."""
    fields: dict[str, Any] = {name: getattr(config, name, None) for name in _CONFIG_FIELDS}
    fields["num_key_value_heads"] = fields["num_key_value_heads"] or fields["num_attention_heads"]
    fields["head_dim"] = fields["head_dim"] or fields["hidden_size"] // fields["num_attention_heads"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def mask_row_hash(row: torch.Tensor) -> str:
    """SHA-256 (hex) of the mask token's embedding row, (D,), rounded to bfloat16.

    The rounding makes a base loaded in float32 and the same base loaded in bfloat16 agree. The row is drawn
    from the statistics of the whole embedding table, so it also tells two fine-tuned models of one
    architecture apart.
    """
    rounded = row.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.uint8).numpy().tobytes()).hexdigest()


def tensors_hash(tensors: Mapping[str, torch.Tensor], settings: bytes = b"") -> str:
    """SHA-256 (hex) of settings and of named tensors as half precision, whatever their order and precision in memory."""
    digest = hashlib.sha256(settings)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class BaseIdentity:
    """A base model, for people (`id`: hub name or path) and for checks (the hashes).

    prepared_hash: of a prepared base's weights, masks and reader included, and of A; empty for a base without A.
    """

    id: str
    config_hash: str
    mask_row_hash: str
    prepared_hash: str = ""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_plain_text(value):
                raise CheckpointError(
                    f"A base model's identity needs {name!r} as printable text of at most "
                    f"{LONGEST_TEXT} characters; got {str(value)[:80]!r}."
                )

    @classmethod
    def of(cls, model: nn.Module, mask_token_id: int, id: str, a: torch.Tensor | None = None) -> BaseIdentity:
        """The identity of a loaded causal language model whose mask token is installed.

        mask_token_id: row of the input embedding table, (vocabulary, D). a: A (M, U) of a base that is prepared, all of whose
        weights are then hashed.
        Raises `CheckpointError` when the table has no such row.
        """
        table = embedding_table(model)
        if not 0 <= mask_token_id < table.shape[0]:
            raise CheckpointError(
                f"The base model {id!r} has {table.shape[0]} embedding rows, so there is no mask token "
                f"{mask_token_id}. Install the mask token in the base model first."
            )
        prepared = "" if a is None else tensors_hash({**model.state_dict(), "A": a})
        return cls(id, config_hash(model.config), mask_row_hash(table[mask_token_id]), prepared)

    @classmethod
    def from_dict(cls, fields: Any) -> BaseIdentity:
        """Read what `to_dict` wrote. `CheckpointError` for missing, unknown or non-text fields."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(fields, Mapping) or set(fields) != names:
            raise CheckpointError(f"A base model's identity needs exactly the fields {', '.join(sorted(names))}.")
        return cls(**fields)

    def to_dict(self) -> dict[str, str]:
        """The fields by name, as they travel and as they are saved."""
        return asdict(self)

    @property
    def hashes(self) -> tuple[str, str, str]:
        """What decides whether an adapter fits."""
        return self.config_hash, self.mask_row_hash, self.prepared_hash

    def matches(self, other: BaseIdentity) -> bool:
        """Same hashes; `id` is not compared (a copy elsewhere is the same model)."""
        return self.hashes == other.hashes

    def require(self, loaded: BaseIdentity, what: str = "This adapter") -> None:
        """Refuse `loaded` unless it is the model that `self` names.

        what: the thing that belongs to `self`, as the subject of the message ("This adapter", "This
            generator").
        Raises `IncompatibleBaseError` saying which base is wanted, which was loaded and what differs.
        """
        if self.matches(loaded):
            return
        if self.config_hash != loaded.config_hash:
            reason = "their architectures differ"
        elif self.mask_row_hash != loaded.mask_row_hash:
            reason = "their mask-token embeddings differ (other weights, or another mask seed)"
        else:
            reason = "they were prepared differently (another reader, other numbered masks or another A)"
        raise IncompatibleBaseError(
            f"{what} was made for the base model {self._label()}, but the loaded base model is "
            f"{loaded._label()}: "
            f"{reason}. Load the base model it was made for, or make it again for this one."
        )

    def _label(self) -> str:
        prepared = f", prepared {self.prepared_hash[:12]}" if self.prepared_hash else ""
        return f"{self.id!r} (config {self.config_hash[:12]}, mask row {self.mask_row_hash[:12]}{prepared})"
