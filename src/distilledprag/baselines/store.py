"""PRAG's adapters of documents: made once, kept on disk, found by what they depend on.

Knows nothing about how they are trained. An adapter's file is written whole, so a killed run loses at
most the documents that were being fine-tuned side by side.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from distilledprag.base.llm import BaseLLM
from distilledprag.baselines.augmented import AugmentedDocument
from distilledprag.baselines.prag import PragSettings, concatenated, train_adapter, train_adapters
from distilledprag.files import write_atomically
from distilledprag.lora.weights import LoraWeights
from distilledprag.prompts import PromptBuilder

KEPT = 256  # adapters held in memory when there is no folder
TOGETHER = 16  # documents fine-tuned side by side


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
