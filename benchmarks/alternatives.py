"""What ours is measured against beside plain RAG: PRAG's fine-tuning, DyPRAG's translator, and plain PEFT adapters.

PRAG has the paper's settings (rank 2 on the MLP, one epoch, one rewrite and three questions a document); writing those is not
counted: the rewrite is the passage's sentences in another order, the answers are sentences of it. DyPRAG's translator has random
weights. So both take the time that they take and answer nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Spent, Watch
from peft import PeftModel
from transformers.generation.streamers import BaseStreamer

from distilledprag.baselines import AugmentedDocument, PragAdapters, PragSettings
from distilledprag.baselines.prag import train_adapter
from distilledprag.generators import build_generator
from distilledprag.generators.dyprag import DypragSettings
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG
from distilledprag.words import sentences

ON_THE_WAY = torch.bfloat16  # LoRA as it is sent


class Alternatives:
    """For one base. folder: where PRAG's adapters are kept."""

    def __init__(self, prag: DistilledPRAG, folder: Path) -> None:
        self._base, self._prompts = prag.base, prag.prompts
        self._translator: Any = build_generator(DypragSettings(), prag.base).to(prag.base.device).eval()
        self._kept = PragAdapters(prag.base, prag.prompts, PragSettings(), "", folder)

    def fine_tuned(self, text: str) -> LoraWeights:
        """PRAG's adapter of a passage, made now."""
        return train_adapter(self._base, self._prompts, augmented(text), self._kept.settings)

    def keep(self, texts: Sequence[str]) -> None:
        """Fine-tune PRAG's adapters of these passages, unless that was done."""
        self._kept.prepare(map(augmented, texts))

    def concatenated(self, texts: Sequence[str]) -> LoraWeights:
        """PRAG's adapters of passages that are kept, read and put side by side."""
        return self._kept.combined([augmented(text) for text in texts]).to(dtype=ON_THE_WAY)

    @torch.inference_mode()
    def translated(self, texts: Sequence[str]) -> LoraWeights:
        """DyPRAG's adapter of these passages."""
        made = self._translator(self._translator.encode(self._base, [texts]))
        return made.unstack(self._base.identity, "dyprag")[0].to(dtype=ON_THE_WAY)


def augmented(text: str) -> AugmentedDocument:
    """A passage with what PRAG trains on beside it."""
    said = sentences(text)
    questions = tuple((f"What is said in sentence {number + 1}?", said[number % len(said)]) for number in range(3))
    return AugmentedDocument(text, " ".join(reversed(said)), questions)


def answered_by_peft(
    prag: DistilledPRAG, adapter: LoraWeights, prompt: Sequence[int], most: int, watch: Watch
) -> tuple[Spent, Spent, list[int]]:
    """What `watch` says at the first and at the last token of PEFT's answer, whose adapter is read from a folder; its ids."""
    with tempfile.TemporaryDirectory() as folder:
        adapter.save_pretrained(folder)
        model = PeftModel.from_pretrained(prag.base.model, folder, autocast_adapter_dtype=False).eval()
        try:
            ids = torch.tensor([list(prompt)], device=prag.base.device)
            first, end = _First(watch), prag.prompts.end_of_turn_id
            with torch.inference_mode():
                written = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
                    eos_token_id=end, pad_token_id=end, streamer=first,
                )  # fmt: skip
            last = watch.spent()
        finally:
            model.unload()
    assert first.spent is not None
    return first.spent, last, [token for token in written[0, len(prompt) :].tolist() if token != end]


class _First(BaseStreamer):
    """Notes when the first token came; what comes before it is the prompt."""

    def __init__(self, watch: Watch) -> None:
        self.spent: Spent | None = None
        self._watch, self._seen = watch, 0

    def put(self, value: torch.Tensor) -> None:
        self._seen += 1
        if self._seen == 2:
            self.spent = self._watch.spent()

    def end(self) -> None:
        pass
