"""The base class of learned generators (documents in, one LoRA per prompt out), the registry of generators by name, and the files
of a checkpoint: `config.json` (settings, base identity, encoder) and `model.safetensors`.

    B = prompts   S = document tokens (padded)   N = state layers   D = state dimension   E = width of the base

A generator works in two steps so that training can cache the first, which is frozen: `encode` turns passages into document
states, `forward` turns document states into LoRA. Adding one is adding one file to this folder:

    class MySettings(GeneratorSettings):
        architecture: Literal["mine"] = "mine"

    @register(MySettings)
    class MyGenerator(ParameterGenerator):
        def __init__(self, settings: MySettings, base: BaseLLM) -> None: ...
        def encode(self, base, passages): ...
        def forward(self, documents): ...
        def initialise(self, documents): ...      # optional
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distilledprag.base.architecture import MLP_TARGETS, Target, embedding_table, module_shapes, split_module_key
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder
from distilledprag.generators.document_states import DocumentStates
from distilledprag.lora.identity import BaseIdentity, tensors_hash
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder

CONFIG, WEIGHTS = "config.json", "model.safetensors"

MaskKind = Literal["statistics", "random", "trainable", "none"]


class GeneratorSettings(Settings):
    """What all generators have in common. `alpha / rank` scales the update, exactly as in PEFT.

    `mask`: the mask token that stands for document tokens, or one of the paper's ablations (for measuring only).
        statistics   the base's installed mask token (mu + eps); all that a served base can do
        random       the same token with the embedding that a new token gets by default: normal, the base's initializer_range
        trainable    the same token with an embedding that is trained along, from the installed one on
        none         no token at all: documents leave nothing in the prompt
    """

    model_config = ConfigDict(extra="forbid")
    architecture: str
    rank: int = Field(2, gt=0)
    alpha: float = Field(2.0, gt=0)
    target_modules: tuple[Target, ...] = MLP_TARGETS
    mask: MaskKind = "statistics"


class ParameterGenerator(nn.Module, PyTorchModelHubMixin, ABC, library_name="distilledprag", tags=["parametric-rag", "lora"]):
    """Base class of the generators. A subclass calls `super().__init__(settings, base)` first.

    reads_base: True if the document states are the hidden states of the base LLM over the prompt's context (N = layers + 1,
        D = E, in the order of `output_hidden_states`), which the teacher's forward pass computes anyway.
    encoder_fingerprint: of a frozen encoder of its own, None without one.
    A generator with `mask: trainable` or `random` has a `mask_row` (E,) of its own, which travels with its checkpoint.

    `save_pretrained(folder)`, `from_pretrained(path_or_id, base=base)`; `push_to_hub(repo_id)` comes from huggingface_hub.
    """

    reads_base: bool = False
    encoder_fingerprint: str | None = None
    saved_dtype: torch.dtype | None = None

    def __init__(self, settings: GeneratorSettings, base: BaseLLM) -> None:
        super().__init__()
        self.settings = settings
        self.base_identity: BaseIdentity = base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)

    @abstractmethod
    def encode(self, base: BaseLLM, passages: Sequence[Sequence[str]]) -> DocumentStates:
        """Frozen encoder over each prompt's concatenated passages (B lists of strings). No gradients."""

    @abstractmethod
    def forward(self, documents: DocumentStates) -> LoraBatch:
        """LoRA for each of the B prompts; differentiable with respect to the generator's own parameters."""

    @torch.no_grad()
    def initialise(self, documents: DocumentStates) -> None:
        """Called once, before the first step of a new training run, with the first batch's documents.

        A place to set parameters from data (biases, norms, latent queries); does nothing unless a generator overrides it.
        """

    def own_weights(self) -> dict[str, Tensor]:
        """The generator's parameters by name, contiguous, on the CPU. (A frozen encoder is not among them.)"""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None, **options: Any) -> str | None:
        """Write the checkpoint folder in one step (an older one is replaced). dtype: of the weights on disk."""
        self.saved_dtype = dtype
        try:
            with replace_folder(save_directory) as temporary:
                return super().save_pretrained(temporary, **options)
        finally:
            self.saved_dtype = None

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: tensor.to(self.saved_dtype or tensor.dtype) for name, tensor in self.own_weights().items()}
        config = {
            "architecture": self.settings.architecture,
            "settings": self.settings.model_dump(mode="json"),
            "base": self.base_identity.to_dict(),
            "encoder": self.encoder_fingerprint,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
        }
        write_checkpoint(save_directory, config, weights)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, base: BaseLLM, **options: Any) -> ParameterGenerator:  # type: ignore[override]
        known = ("revision", "cache_dir", "force_download", "token", "local_files_only")
        return load_generator(model_id, base, **{key: options[key] for key in known if options.get(key) is not None})


# --- generators by name

Generator = TypeVar("Generator", bound=type[ParameterGenerator])
_REGISTERED: dict[str, tuple[type[GeneratorSettings], type[ParameterGenerator]]] = {}


def register(settings: type[GeneratorSettings]) -> Callable[[Generator], Generator]:
    """Class decorator: recipes and checkpoints find the generator by the default of its settings' `architecture`.

    Raises ConfigError when another generator has that name already.
    """
    name = settings.model_fields["architecture"].default

    def decorate(generator: Generator) -> Generator:
        known = _REGISTERED.get(name)
        if known and known[1].__qualname__ != generator.__qualname__:
            raise ConfigError(f"two generators are called {name!r}: {known[1].__name__} and {generator.__name__}")
        _REGISTERED[name] = (settings, generator)
        return generator

    return decorate


def generator_names() -> tuple[str, ...]:
    """The architectures of all registered generators, in the order of their names."""
    return tuple(sorted(_REGISTERED))


def checked_settings(values: Any) -> GeneratorSettings:
    """Settings of the architecture that `values` names.

    Raises ConfigError for an unknown architecture or an unknown or wrong setting, naming it.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"generator settings must be keys and values, such as `architecture: paper`; got {values!r}")
    name = values.get("architecture")
    if not isinstance(name, str) or name not in _REGISTERED:
        raise ConfigError(f"unknown generator architecture {name!r}; choose one of {', '.join(generator_names())}")
    try:
        return _REGISTERED[name][0].model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"generator settings ({name}): {problems}") from error


def build_generator(settings: Mapping[str, Any] | GeneratorSettings, base: BaseLLM) -> ParameterGenerator:
    """A new generator for `base`. Weights are drawn from torch's global random state. Errors as in `checked_settings`."""
    checked = checked_settings(settings.model_dump() if isinstance(settings, GeneratorSettings) else settings)
    generator: ParameterGenerator = cast(Any, _REGISTERED[checked.architecture][1])(checked, base)
    _add_mask_row(generator, base, checked.mask)
    return generator


def load_generator(path_or_id: str | Path, base: BaseLLM, **hub_options: Any) -> ParameterGenerator:
    """Load a generator for `base` from a folder or a hub id, in evaluation mode on the base's device.

    Raises IncompatibleBaseError when it was trained for another base (naming both), CheckpointError when the folder is
    missing, damaged, of an unknown architecture, made with another document encoder, or its weights do not fit or are
    not finite.
    """
    folder = find_checkpoint(path_or_id, **hub_options)
    config = read_config(folder)
    BaseIdentity.from_dict(config["base"]).require(base.identity, f"The generator in {folder}")
    generator = build_generator(config["settings"], base)
    if config.get("encoder") != generator.encoder_fingerprint:
        raise CheckpointError(
            f"the generator in {folder} was trained with another document encoder than the one now at "
            f"{config['settings'].get('encoder')!r} (fingerprint {config.get('encoder')}, found "
            f"{generator.encoder_fingerprint}); restore the encoder that it was trained with"
        )
    weights, wanted = read_weights(folder), generator.own_weights()
    require_fitting(folder, weights, wanted)
    generator.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()})
    return generator.to(base.device).eval()


def generator_identity(generator: ParameterGenerator) -> str:
    """Architecture and a short hash of the weights as half precision, e.g. `paper-3f2a9c0d1e5b`."""
    return f"{generator.settings.architecture}-{tensors_hash(generator.own_weights())[:12]}"


# --- helpers for generators


def adapter_sizes(base: BaseLLM, settings: GeneratorSettings) -> dict[str, tuple[int, int]]:
    """Target module -> (d_in, d_out), for generators that share weights between layers.

    Raises ConfigError when a module's size differs between layers.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for key, size in module_shapes(base.model.config, settings.target_modules).items():
        _, module = split_module_key(key)
        if sizes.setdefault(module, size) != size:
            raise ConfigError(
                f"the {settings.architecture} generator needs {module} of one size in all layers, found {sizes[module]} and "
                f"{size}; take another base or leave it out of target_modules"
            )
    return sizes


def adapter_modules(base: BaseLLM, settings: GeneratorSettings) -> list[tuple[str, int, str]]:
    """(module key, layer, target module) of every linear module that gets an adapter, layer by layer."""
    return [(key, *split_module_key(key)) for key in module_shapes(base.model.config, settings.target_modules)]


def _add_mask_row(generator: ParameterGenerator, base: BaseLLM, kind: MaskKind, seed: int = 0) -> None:
    """Give the generator its own `mask_row` (E,) where its kind of mask needs one. The global random state is not used."""
    installed = embedding_table(base.model)[base.mask_token_id].detach().float().clone()
    if kind == "trainable":
        generator.register_parameter("mask_row", nn.Parameter(installed))
    elif kind == "random":
        deviation = float(getattr(base.model.config, "initializer_range", 0.02))
        drawn = torch.randn(installed.shape, generator=torch.Generator().manual_seed(seed)) * deviation
        generator.register_buffer("mask_row", drawn.to(installed.device))


def mask_row_of(generator: ParameterGenerator | None) -> Tensor | None:
    """The generator's own embedding of the mask token (E,), or None: the installed one."""
    return cast("Tensor | None", getattr(generator, "mask_row", None))


@contextlib.contextmanager
def mask_embedded_as(base: BaseLLM, row: Tensor | None) -> Iterator[None]:
    """While the block runs, mask tokens are embedded as `row` (E,), through which gradients flow; None: as installed."""
    if row is None:
        yield
        return

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        is_mask = (inputs[0] == base.mask_token_id)[..., None]  # (B, T, 1)
        return torch.where(is_mask, row.to(output), output)

    handle = cast(nn.Module, base.model.get_input_embeddings()).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


# --- the files of a checkpoint


def write_checkpoint(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files into an existing folder. weights: contiguous, on the CPU."""
    save_file(dict(weights), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def find_checkpoint(path_or_id: str | Path, **hub_options: Any) -> Path:
    """The folder of a checkpoint: `path_or_id` itself, or where the Hub's copy lies. Raises CheckpointError for neither."""
    path = Path(path_or_id)
    if path.exists():
        return path
    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=[CONFIG, WEIGHTS], **hub_options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"no generator at {path_or_id}: neither a folder nor a hub id that can be reached") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a generator checkpoint. Raises CheckpointError when there is none or it describes something else."""
    file = folder / CONFIG
    if not file.exists():
        raise CheckpointError(f"{folder} is not a generator checkpoint: it has no {CONFIG}; pass the folder that training wrote")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(config["settings"], dict) and isinstance(config["base"], dict) and "architecture" in config):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a generator; pass the `model` folder of a training run") from error
    return config


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


def require_fitting(folder: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless the weights have the names and shapes that the settings make."""
    if weights.keys() != wanted.keys():
        difference = sorted(weights.keys() ^ wanted.keys())[:3]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its config: {', '.join(difference)}; restore both files together")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} has shape {tuple(tensor.shape)}, its config makes {tuple(wanted[name].shape)}"
            )
