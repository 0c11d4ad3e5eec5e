"""What every parameter generator is: documents in, one LoRA per prompt out.

B = prompts, S = document tokens (padded), N = state layers, D = state dimension.
A generator works in two steps so that training can cache the first, which is frozen: `encode` turns passages into
document states, `forward` turns document states into LoRA. It knows nothing about questions, prompts or losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from distilledprag.base.architecture import MLP_TARGETS, Target, backbone, decoder_layers, module_key
from distilledprag.base.llm import BaseLLM
from distilledprag.generators.checkpoint import GeneratorCheckpoint
from distilledprag.generators.mask_kind import MaskKind
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.identity import BaseIdentity


class GeneratorSettings(Settings):
    """What all generators have in common. `alpha / rank` scales the update, exactly as in PEFT; `mask`: see mask_kind.py."""

    model_config = ConfigDict(extra="forbid")
    architecture: str
    rank: int = Field(2, gt=0)
    alpha: float = Field(2.0, gt=0)
    target_modules: tuple[Target, ...] = MLP_TARGETS
    mask: MaskKind = "statistics"


@dataclass(frozen=True)
class ModuleShape:
    """One linear layer that gets an adapter: key below `model.` (as in LoraWeights), layer number, in and out widths."""

    key: str
    layer: int
    module: str
    d_in: int
    d_out: int


def module_shapes(model: Any, target_modules: Sequence[str]) -> list[ModuleShape]:
    """The base's target modules, layer by layer, in the order of `target_modules`."""
    shapes = []
    for number in range(len(decoder_layers(model))):
        for module in target_modules:
            key = module_key(number, module)
            linear = backbone(model).get_submodule(key)
            shapes.append(ModuleShape(key, number, module, linear.in_features, linear.out_features))
    return shapes


@dataclass
class DocumentStates:
    """`states`: (N, B, S, D) frozen encoder states of the passages' tokens; `mask`: (B, S) bool, False on padding."""

    states: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> DocumentStates:
        return DocumentStates(self.states.to(device), self.mask.to(device))


class ParameterGenerator(nn.Module, GeneratorCheckpoint, ABC):
    """Base class of the generators. A subclass registers its `architecture` in generator/registry.py.

    reads_base: True if the document states are the hidden states of the base LLM over the prompt's context (N = layers
    + 1, D = hidden size, in the order of `output_hidden_states`), which the teacher's forward pass computes anyway.
    encoder_fingerprint: of a frozen encoder of its own, None without one.
    """

    reads_base: bool = False
    encoder_fingerprint: str | None = None
    settings: GeneratorSettings
    base_identity: BaseIdentity

    @abstractmethod
    def encode(self, base: BaseLLM, passages: Sequence[Sequence[str]]) -> DocumentStates:
        """Frozen encoder over each prompt's concatenated passages (B lists of strings). No gradients."""

    @abstractmethod
    def forward(self, documents: DocumentStates) -> LoraBatch:
        """LoRA for each of the B prompts; differentiable with respect to the generator's own parameters."""
