"""Adapters made from documents: the records that travel, their formats, their checks, and how a model runs with them.

weights.py      LoraWeights: one LoRA, and LoraBatch: several side by side, for one forward pass
states.py       StateAdapter: rows of states    injection.py     running a model with adapters, and merging one
peft_format.py  PEFT's names and folder         container.py     safetensors bytes from strangers
validation.py   the gate for strangers' LoRAs   identity.py      which base model an adapter belongs to

Imports `errors`, `files` and `base.architecture` only, so that an untrusted engine needs nothing that handles documents.
"""

from distilledprag.base.architecture import ATTENTION_TARGETS, MLP_TARGETS, module_shapes
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.injection import inject, inject_parts, merge_into, merged, written_states
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.validation import AdapterSpec, check_adapter
from distilledprag.lora.weights import LoraBatch, LoraPair, LoraWeights

__all__ = [
    "ATTENTION_TARGETS",
    "MLP_TARGETS",
    "AdapterError",
    "AdapterSpec",
    "BaseIdentity",
    "LoraBatch",
    "LoraPair",
    "LoraWeights",
    "Rejection",
    "StateAdapter",
    "check_adapter",
    "inject",
    "inject_parts",
    "merge_into",
    "merged",
    "module_shapes",
    "written_states",
]
