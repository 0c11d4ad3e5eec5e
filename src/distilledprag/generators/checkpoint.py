"""Generators on disk and on the Hub: `config.json` (settings, base identity, version) and `model.safetensors`.

A checkpoint knows which base model it was trained for and refuses any other. A frozen external encoder is not part of
it: only its id and fingerprint are saved, and another one is refused. This module knows nothing about how the architectures work.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilledprag.errors import CheckpointError
from distilledprag.files import replace_folder
from distilledprag.lora.identity import BaseIdentity

if TYPE_CHECKING:
    from distilledprag.base.llm import BaseLLM
    from distilledprag.generators.interface import ParameterGenerator

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class GeneratorCheckpoint(PyTorchModelHubMixin, library_name="distilledprag", tags=["parametric-rag", "lora"]):
    """Mix-in: saving, loading and pushing for parameter generators.

    `from_pretrained(path_or_id, base=base)` needs the base model that the generator is for; `push_to_hub(repo_id)`
    comes from huggingface_hub.
    """

    saved_dtype: torch.dtype | None = None

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None, **options: Any) -> str | None:  # type: ignore[override]
        """Write the checkpoint folder in one step (an older one is replaced). dtype: of the weights on disk."""
        self.saved_dtype = dtype
        try:
            with replace_folder(save_directory) as temporary:
                return super().save_pretrained(temporary, **options)
        finally:
            self.saved_dtype = None

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: tensor.to(self.saved_dtype or tensor.dtype) for name, tensor in own_weights(self).items()}
        save_file(weights, save_directory / WEIGHTS, metadata={"format": "pt"})
        config = {
            "architecture": self.settings.architecture,  # type: ignore[attr-defined]
            "settings": self.settings.model_dump(mode="json"),  # type: ignore[attr-defined]
            "base": self.base_identity.to_dict(),  # type: ignore[attr-defined]
            "encoder": self.encoder_fingerprint,  # type: ignore[attr-defined]
            "parameters": sum(tensor.numel() for tensor in weights.values()),
        }
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, base: BaseLLM, **options: Any) -> ParameterGenerator:  # type: ignore[override]
        known = ("revision", "cache_dir", "force_download", "token", "local_files_only")
        return load_generator(model_id, base, **{key: options[key] for key in known if options.get(key) is not None})


def own_weights(generator: Any) -> dict[str, Tensor]:
    """The generator's parameters by name, contiguous, on the CPU. (A frozen encoder is not among them.)"""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}


def generator_identity(generator: Any) -> str:
    """Architecture and a short hash of the weights as half precision, e.g. `paper-3f2a9c0d1e5b`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(own_weights(generator).items()):
        digest.update(name.encode())
        digest.update(tensor.half().numpy().tobytes())
    return f"{generator.settings.architecture}-{digest.hexdigest()[:12]}"


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a generator checkpoint. Raises CheckpointError when there is none, or it is another thing's."""
    file = folder / CONFIG
    if not file.exists():
        raise CheckpointError(f"{folder} is not a generator checkpoint: it has no {CONFIG}; pass the folder that training wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(config["settings"], dict) and isinstance(config["base"], dict) and "architecture" in config):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a generator; pass the `model` folder of a training run") from error
    return config


def load_generator(path_or_id: str | Path, base: BaseLLM, **hub_options: Any) -> ParameterGenerator:
    """Load a generator for `base` from a folder or a hub id, in evaluation mode on the base's device.

    Raises IncompatibleBaseError when it was trained for another base (naming both), CheckpointError when the folder is
    missing, damaged, of an unknown architecture, made with another document encoder, or its weights do not fit or are
    not finite.
    """
    from distilledprag.generators.registry import build_generator

    folder = _folder(path_or_id, hub_options)
    config = read_config(folder)
    BaseIdentity.from_dict(config["base"]).require(base.identity, f"The generator in {folder}")
    generator = build_generator(config["settings"], base)
    if config.get("encoder") != generator.encoder_fingerprint:
        raise CheckpointError(
            f"the generator in {folder} was trained with another document encoder than the one now at "
            f"{config['settings'].get('encoder')!r} (fingerprint {config.get('encoder')}, found "
            f"{generator.encoder_fingerprint}); restore the encoder that it was trained with"
        )
    weights = read_weights(folder)
    wanted = own_weights(generator)
    if weights.keys() != wanted.keys():
        difference = sorted(weights.keys() ^ wanted.keys())[:3]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its config: {', '.join(difference)}; restore both files together")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} has shape {tuple(tensor.shape)}, its config makes {tuple(wanted[name].shape)}"
            )
    generator.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()})
    return generator.to(base.device).eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a generator checkpoint. Raises CheckpointError when they are missing, damaged or not finite."""
    file = folder / WEIGHTS
    if not file.exists():
        raise CheckpointError(f"{file} is missing; the checkpoint is incomplete, copy it again")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); it is truncated or damaged, copy it again") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {name} has values that are not finite; use another checkpoint")
    return weights


def _folder(path_or_id: str | Path, hub_options: dict[str, Any]) -> Path:
    path = Path(path_or_id)
    if path.exists():
        return path
    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=[CONFIG, WEIGHTS], **hub_options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"no generator at {path_or_id}: neither a folder nor a hub id that can be reached") from error
