"""PRAG's adapters of documents: made once, kept on disk, found by what they depend on; and `dprag train` of them.

An adapter's file is written whole, so a killed run loses at most the documents that were being fine-tuned side by side.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from rich.progress import track

from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM, load_base, weights_hash
from distilledprag.baselines.prag import (
    AugmentedDocument,
    PragSettings,
    concatenated,
    documents_of_pairs,
    train_adapter,
    train_adapters,
)
from distilledprag.device import chosen_device
from distilledprag.errors import InputError
from distilledprag.files import write_atomically
from distilledprag.lora.weights import LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import Dtype

KEPT = 256  # adapters held in memory when there is no folder
TOGETHER = 16  # documents fine-tuned side by side


class PairDocuments(Settings):
    """The documents of `dprag synthesize` files; `num_documents`: a random sample of so many (None: all)."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["pairs"] = "pairs"
    files: list[Path] = Field(min_length=1)
    num_documents: int | None = Field(None, gt=0)
    seed: int = 0

    def load(self) -> list[AugmentedDocument]:
        """Raises InputError for files without single-document pairs."""
        found = list(documents_of_pairs(self.files).values())
        if not found:
            raise InputError(f"{', '.join(map(str, self.files))}: no single-document pairs, which PRAG and DyPRAG train on")
        if self.num_documents is not None and self.num_documents < len(found):
            found = random.Random(self.seed).sample(found, self.num_documents)
        return found


class PragRecipe(Settings):
    """Fine-tune one adapter per document and keep them in `output`/adapters."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["prag"] = "prag"
    output: Path
    base: str | None = None
    dtype: Dtype = "float32"
    prag: PragSettings = PragSettings()
    data: PairDocuments


class PragAdapters:
    """One adapter per document. folder: where they are kept (None: some in memory only).

    base_weights: a hash of the base's weights, part of what an adapter depends on.
    """

    def __init__(
        self, base: BaseLLM, prompts: PromptBuilder, settings: PragSettings, base_weights: str, folder: Path | None = None
    ) -> None:
        self.base = base
        self.prompts = prompts
        self.settings = settings
        self.base_weights = base_weights
        self.folder = folder
        self._memory: OrderedDict[str, LoraWeights] = OrderedDict()

    @property
    def identity(self) -> str:
        """`prag-` and a short hash of the settings and the base."""
        return f"prag-{self._hash(())[:12]}"

    def _hash(self, what: tuple) -> str:
        parts = [what, self.settings.model_dump(mode="json"), self.base.identity.to_dict(), self.base_weights]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def adapter(self, document: AugmentedDocument) -> LoraWeights:
        """The document's adapter, trained now if it is not at hand."""
        key = self._hash(astuple(document))
        found = self._found(key)
        if found is None:
            found = train_adapter(self.base, self.prompts, document, self.settings)
            self._keep(key, found)
        return found

    def combined(self, documents: Sequence[AugmentedDocument]) -> LoraWeights:
        """The concatenated adapter of several documents."""
        return concatenated([self.adapter(document) for document in documents])

    def prepare(self, documents: Iterable[AugmentedDocument], together: int = TOGETHER) -> int:
        """Make the adapters that are not at hand, `together` of them side by side; returns how many were made.

        Without a folder only the last `KEPT` of them stay at hand.
        """
        count, missing = 0, {}
        for document in documents:
            key = self._hash(astuple(document))
            if key not in missing and not self._has(key):
                missing[key] = document
            if len(missing) == together:
                count += self._train(missing)
                missing = {}
        return count + self._train(missing)

    def _train(self, missing: dict[str, AugmentedDocument]) -> int:
        if missing:
            made = train_adapters(self.base, self.prompts, list(missing.values()), self.settings)
            for key, adapter in zip(missing, made, strict=True):
                self._keep(key, adapter)
        return len(missing)

    def _file(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.safetensors" if self.folder else None

    def _has(self, key: str) -> bool:
        file = self._file(key)
        return key in self._memory or (file is not None and file.exists())

    def _found(self, key: str) -> LoraWeights | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        file = self._file(key)
        return LoraWeights.from_bytes(file.read_bytes()) if file and file.exists() else None

    def _keep(self, key: str, adapter: LoraWeights) -> None:
        if file := self._file(key):
            write_atomically(file, adapter.to_bytes())
        else:
            self._memory[key] = adapter
            if len(self._memory) > KEPT:
                self._memory.popitem(last=False)


def open_adapters(base: str | None, dtype: Dtype, settings: PragSettings, folder: Path) -> PragAdapters:
    """The adapters in `folder`, for a base (folder or hub id; None: the default one) that is loaded here."""
    loaded = load_base(base or default_base(), device=chosen_device(), dtype=getattr(torch, dtype))
    prompts = PromptBuilder(loaded.tokenizer, loaded.mask_token_id)
    return PragAdapters(loaded, prompts, settings, weights_hash(loaded.model), folder)


def train_prag(recipe: PragRecipe, *, quiet: bool = False) -> dict[str, float]:
    """Make the adapters of all of the recipe's documents; those that are there already are kept, so a run can be repeated."""
    adapters = open_adapters(recipe.base, recipe.dtype, recipe.prag, recipe.output / "adapters")
    documents = recipe.data.load()
    made = adapters.prepare(track(documents, "adapters", disable=quiet))
    return {"documents": float(len(documents)), "made": float(made)}
