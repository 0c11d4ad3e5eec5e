"""PEFT's adapter format: tensor names, adapter_config.json, and the folder.

    FOLDER/
      adapter_config.json         peft's own LoraConfig; read by PEFT, vLLM, transformers
      adapter_model.safetensors   the tensors; our record rides in its metadata
      distilledprag.json          the same record again, for people and for tools that drop metadata

r = rank, d_in / d_out = sizes of the targeted linear module; `lora_A` is (r, d_in), `lora_B` is (d_out, r).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.base.architecture import BACKBONE_PATH, is_module_key, module_key, reading_order, split_module_key
from distilledprag.errors import AdapterError, CheckpointError, Rejection
from distilledprag.files import replace_folder
from distilledprag.lora.identity import LONGEST_TEXT, BaseIdentity, is_plain_text

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "distilledprag.json"
PROMPT_FILE = "prompt.json"  # the masked prompt that `dprag encode` writes beside an adapter
STATES_FILE = "states.safetensors"  # the compact adapter that `dprag encode --for engine` writes in place of the others
METADATA_KEY = "distilledprag"

_PREFIX = f"base_model.model.{BACKBONE_PATH}."
_FORMAT = 1
_RECORD_FIELDS = {"format", "alpha", "rank", "base", "generator"}
_LARGEST_ALPHA = 1e6  # far above any use; keeps NaN, infinity and integers too long for a float out
# Settings of LoraConfig under which the same tensors would act otherwise than alpha/r * B A.
_PLAIN_SETTINGS = {
    "bias": (None, "none"),
    "use_rslora": (None, False),
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
}


@dataclass(frozen=True)
class AdapterRecord:
    """Everything about an adapter that is not a tensor."""

    alpha: float
    rank: int
    base: BaseIdentity
    generator: str

    def __post_init__(self) -> None:
        if type(self.alpha) not in (int, float) or not 0 < self.alpha < _LARGEST_ALPHA:
            raise _bad_record(f"alpha must be a positive number, got {str(self.alpha)[:40]!r}")
        if type(self.rank) is not int or self.rank < 1:
            raise _bad_record(f"rank must be a positive whole number, got {str(self.rank)[:40]!r}")
        if not is_plain_text(self.generator):
            raise _bad_record(f"generator must be printable text of at most {LONGEST_TEXT} characters")
        object.__setattr__(self, "alpha", float(self.alpha))

    def to_json(self) -> str:
        fields = {
            "format": _FORMAT,
            "alpha": self.alpha,
            "rank": self.rank,
            "base": self.base.to_dict(),
            "generator": self.generator,
        }
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterRecord:
        """Read what `to_json` wrote. Raises `AdapterError` (RECORD) for anything else."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad_record("it is not valid JSON") from error
        if not isinstance(fields, dict) or set(fields) != _RECORD_FIELDS:
            raise _bad_record(f"it must have exactly the fields {', '.join(sorted(_RECORD_FIELDS))}")
        if fields["format"] != _FORMAT:
            raise _bad_record(f"it has format {str(fields['format'])[:20]!r}; this version reads format {_FORMAT}")
        try:
            base = BaseIdentity.from_dict(fields["base"])
        except CheckpointError as error:
            raise _bad_record(str(error)) from error
        return cls(alpha=fields["alpha"], rank=fields["rank"], base=base, generator=fields["generator"])


def tensor_names(module: str) -> tuple[str, str]:
    """The two names under which PEFT stores the A and the B of a module key."""
    return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def modules_of(names: Iterable[str]) -> list[str]:
    """The module keys, in reading order, whose A and B are all of `names`.

    Raises `AdapterError` (KEYS) for a name that is not a LoRA tensor of a known module, a lone A or B, or no
    name.
    """
    given = set(names)
    modules: set[str] = set()
    for name in given:
        module, _, rest = name.removeprefix(_PREFIX).partition(".lora_")
        if not name.startswith(_PREFIX) or rest not in ("A.weight", "B.weight") or not is_module_key(module):
            raise AdapterError(
                Rejection.KEYS,
                f"The adapter has an unexpected tensor {name[:120]!r}; expected names like "
                f"{tensor_names(module_key(0, 'gate_proj'))[0]!r}. Export it as a plain LoRA on the "
                "attention and MLP projections.",
            )
        modules.add(module)
    for module in modules:
        for name in tensor_names(module):
            if name not in given:
                raise AdapterError(Rejection.KEYS, f"The adapter lacks the tensor {name!r}. Export it again, whole.")
    if not modules:
        raise AdapterError(Rejection.KEYS, "The adapter holds no tensors. Export it again.")
    return sorted(modules, key=reading_order)


def adapter_config(record: AdapterRecord, modules: Iterable[str]) -> dict[str, Any]:
    """The content of adapter_config.json, as peft's own `LoraConfig` writes it.

    modules: the module keys the adapter has. PEFT then builds LoRA layers on exactly these.
    """
    from peft import LoraConfig  # here, because importing it takes seconds and only writing a folder needs it

    keys = sorted(modules, key=reading_order)
    layers = sorted({split_module_key(key)[0] for key in keys})
    targets = sorted({split_module_key(key)[1] for key in keys})
    # A whole grid of layers x targets (every generator makes one) gets the short names that all tools know.
    is_grid = len(keys) == len(layers) * len(targets)
    alpha = int(record.alpha) if record.alpha.is_integer() else record.alpha
    config = LoraConfig(
        r=record.rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        target_modules=targets if is_grid else keys,
        layers_to_transform=layers if is_grid else None,
        base_model_name_or_path=record.base.id,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}


def check_adapter_folder(folder: str | Path) -> None:
    """Whether an adapter may be written there, which replaces the folder.

    Raises `CheckpointError` when `folder` is a file or holds files that are no adapter's, which would be deleted, and when
    nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; an adapter needs a folder. Choose another path.")
    present = set(os.listdir(folder)) if folder.exists() else set()
    foreign = sorted(present - {CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE, PROMPT_FILE, STATES_FILE})
    if foreign:
        raise CheckpointError(
            f"{folder} holds other files ({', '.join(foreign[:3])}), which writing an adapter there would "
            "delete. Choose a new or empty folder."
        )
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(there, os.W_OK):
        raise CheckpointError(f"{folder} cannot be made: {there} is read-only. Choose another path.")


def write_folder(folder: str | Path, weights: bytes, record: AdapterRecord, modules: Iterable[str]) -> None:
    """Write a PEFT adapter folder in one step: a crash leaves the old folder or the new one. Errors as in
    `check_adapter_folder`."""
    check_adapter_folder(folder)
    config = json.dumps(adapter_config(record, modules), indent=2, sort_keys=True)
    with replace_folder(folder) as temporary:
        (temporary / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        (temporary / RECORD_FILE).write_text(record.to_json() + "\n", encoding="utf-8")


def read_folder(folder: str | Path) -> tuple[bytes, AdapterRecord]:
    """The tensor bytes and the record of an adapter folder.

    Raises `CheckpointError` when the folder or a file is missing or adapter_config.json asks for more than
    plain LoRA or contradicts the record.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"There is no adapter in {folder}: {name} is missing. Give a folder that `dprag encode` or "
                "`LoraWeights.save_pretrained` wrote."
            )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        record_text = (folder / RECORD_FILE).read_text(encoding="utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"The adapter in {folder} has an unreadable configuration. Export it again.") from error
    record = AdapterRecord.from_json(record_text)
    _check_config(config, record, folder)
    return (folder / WEIGHTS_FILE).read_bytes(), record


def _check_config(config: Any, record: AdapterRecord, folder: Path) -> None:
    """Refuse a configuration under which PEFT would apply these tensors in another way than we do."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / CONFIG_FILE} does not describe a LoRA. Give a LoRA adapter's folder.")
    for name, allowed in _PLAIN_SETTINGS.items():
        if config.get(name) not in allowed:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} sets {name}={config[name]!r}; only plain LoRA is supported. "
                f"Export the adapter without {name}."
            )
    if config.get("r") != record.rank or config.get("lora_alpha") != record.alpha:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} says r={config.get('r')}, lora_alpha={config.get('lora_alpha')}, but "
            f"{RECORD_FILE} says rank {record.rank}, alpha {record.alpha}: files of two adapters are mixed. "
            "Export the adapter again."
        )


def _bad_record(detail: str) -> AdapterError:
    return AdapterError(
        Rejection.RECORD,
        f"The adapter's distilledprag record cannot be used: {detail}. Export the adapter again with "
        "`LoraWeights.save_pretrained` or `to_bytes`.",
    )
