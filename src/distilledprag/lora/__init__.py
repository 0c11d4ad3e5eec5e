"""LoRA adapters made from documents: the record that travels, its formats, its checks and its injection.

Depends only on `errors` and `files`, so that the untrusted engine can be installed with it alone.
"""

from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.injection import inject, inject_parts
from distilledprag.lora.merging import merge_into, merged
from distilledprag.lora.rejection import AdapterError, Rejection
from distilledprag.lora.targets import ATTENTION_TARGETS, MLP_TARGETS, module_shapes
from distilledprag.lora.validation import AdapterSpec, check_adapter
from distilledprag.lora.weights import LoraPair, LoraWeights

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
    "check_adapter",
    "inject",
    "inject_parts",
    "merge_into",
    "merged",
    "module_shapes",
]
