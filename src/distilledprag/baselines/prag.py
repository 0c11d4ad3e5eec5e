"""PRAG (Su et al. 2025, arXiv 2501.15915): one LoRA per document by fine-tuning; the LoRAs of a question's documents are
concatenated along the rank.

    r = rank, k = documents, d_in / d_out = sizes of a module, T = tokens
    A = [A_1; ...; A_k] (k r, d_in)    B = [B_1 ... B_k] (d_out, k r)    so that B A = sum_i B_i A_i

An adapter is trained from an augmented document: the document, the same in other words, and questions about it with answers.
`train_adapter` fine-tunes one document's LoRA with PEFT; `train_adapters` those of many documents side by side in one forward
pass, each as if it were alone (AdamW works entry by entry). `PragAdapters` keeps them on disk, found by what they depend on; a
file is written whole, so a killed run loses at most the documents that were being fine-tuned side by side.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from rich.progress import track
from torch.nn import functional

from distilledprag.base.architecture import MLP_TARGETS, Target, module_key
from distilledprag.base.default import default_base
from distilledprag.base.llm import BaseLLM, chosen_device, load_base, weights_hash
from distilledprag.distillation.packing import IGNORED
from distilledprag.distillation.pair_data import read_pairs
from distilledprag.errors import InputError
from distilledprag.files import write_atomically
from distilledprag.lora.injection import inject
from distilledprag.lora.peft_format import AdapterRecord, tensor_names
from distilledprag.lora.weights import LoraBatch, LoraPair, LoraWeights
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import Dtype

KEPT = 256  # adapters held in memory when there is no folder
TOGETHER = 16  # documents fine-tuned side by side

PromptVariant = Literal["masked", "question_only", "open"]


@dataclass(frozen=True)
class AugmentedDocument:
    """rewrite: the document in other words, or "" without one. questions: (question, answer) pairs, at least one."""

    text: str
    rewrite: str
    questions: tuple[tuple[str, str], ...]


def documents_of_pairs(files: Sequence[Path]) -> dict[str, AugmentedDocument]:
    """The documents of `dprag synthesize` files by their text, each with its single-document questions.

    PRAG makes an adapter of one document, so cross-document pairs are left out. Raises InputError as `read_pairs` does.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for pair in (pair for file in files for pair in read_pairs(file)):
        if len(pair.documents) == 1:
            found.setdefault(pair.documents[0], []).append((pair.question, pair.answer))
    return {text: AugmentedDocument(text, "", tuple(questions)) for text, questions in found.items()}


class PragSettings(Settings):
    """Defaults are the paper's. `supervise`: which tokens the loss counts (the paper: the whole sequence); `passage_share`:
    share of the questions that are trained with the document (and its rewrite) in the prompt, the others stand alone."""

    model_config = ConfigDict(extra="forbid")
    rank: int = Field(2, gt=0)
    alpha: float = Field(32.0, gt=0)
    target_modules: tuple[Target, ...] = MLP_TARGETS
    learning_rate: float = Field(3e-4, gt=0)
    epochs: int = Field(1, gt=0)
    batch_size: int = Field(1, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    supervise: Literal["all", "answer"] = "all"
    passage_share: float = Field(0.5, ge=0, le=1)
    seed: int = 0


TrainingSequence = tuple[list[int], list[int]]


def prompt_ids(prompts: PromptBuilder, question: str, documents: Sequence[str], variant: PromptVariant) -> list[int]:
    """The prompt's ids: masked documents, no documents at all, or documents in plaintext."""
    if variant == "question_only":
        return prompts.closed_book(question)
    prompt = prompts.build(question, documents)
    return prompt.masked_ids if variant == "masked" else prompt.open_ids


def training_sequences(prompts: PromptBuilder, document: AugmentedDocument, settings: PragSettings) -> list[TrainingSequence]:
    """(ids, targets) of each training text, in the order of the questions. targets[t] is ids[t] or IGNORED.

    Raises InputError for a document without questions.
    """
    if not document.questions:
        raise InputError(f"PRAG needs questions about each document; there are none about {document.text[:60]!r}")
    with_passage = -(-len(document.questions) * settings.passage_share // 1)  # rounded up
    made = []
    for number, (question, answer) in enumerate(document.questions):
        texts = [text for text in (document.text, document.rewrite) if text] if number < with_passage else []
        for passages in [[text] for text in texts] or [[]]:
            prompt, written = prompts.build(question, passages).open_ids, prompts.answer_ids(answer)
            ids = [*prompt, *written]
            made.append((ids, ids if settings.supervise == "all" else [IGNORED] * len(prompt) + written))
    return made


def train_adapter(base: BaseLLM, prompts: PromptBuilder, document: AugmentedDocument, settings: PragSettings) -> LoraWeights:
    """Fine-tune a LoRA on one document; the base is left as it was. Every document starts from the same random A.

    The global random state is not changed. Not to be called while adapters are injected into the base.
    """
    return _fine_tuned(base, _batches(training_sequences(prompts, document, settings), settings), settings)


def train_adapters(
    base: BaseLLM, prompts: PromptBuilder, documents: Sequence[AugmentedDocument], settings: PragSettings
) -> list[LoraWeights]:
    """As `train_adapter` for each of the documents, to rounding, but one forward pass serves a step of all of them."""
    batches = [_batches(training_sequences(prompts, document, settings), settings) for document in documents]
    untrained = _fine_tuned(base, [], settings)
    stacked = LoraBatch.stack([untrained] * len(documents)).to(device=base.device)
    factors = [factor.requires_grad_() for pair in stacked.modules.values() for factor in pair]
    optimizer = torch.optim.AdamW(factors, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    made: dict[int, LoraWeights] = {}
    with torch.enable_grad():
        for step in range(max(map(len, batches))):
            under_way = [row for row, own in enumerate(batches) if step < len(own)]
            sequences = [sequence for row in under_way for sequence in batches[row][step]]
            owners = torch.tensor([row for row in under_way for _ in batches[row][step]])
            with inject(base.model, stacked, row_index=owners):
                _loss(base, sequences, owners).backward()
            optimizer.step()
            optimizer.zero_grad()
            for row in under_way:
                if step == len(batches[row]) - 1:  # copied now: the optimizer's momentum goes on changing it
                    pairs = {key: LoraPair(*(f[row].detach().clone() for f in pair)) for key, pair in stacked.modules.items()}
                    made[row] = replace(untrained, modules=pairs)
    return [made[row] for row in range(len(documents))]


def _fine_tuned(base: BaseLLM, batches: list[list[TrainingSequence]], settings: PragSettings) -> LoraWeights:
    """One adapter by PEFT, after one step of AdamW for each batch."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # used as a number only
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(settings.seed)
        model = get_peft_model(base.model, config)
        try:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
            for batch in batches:
                _loss(base, batch, torch.zeros(len(batch), dtype=torch.long)).backward()
                optimizer.step()
                optimizer.zero_grad()
            return _exported(base, model.state_dict(), settings)
        finally:
            model.unload()
            base.model.requires_grad_(False)


def _batches(sequences: list[TrainingSequence], settings: PragSettings) -> list[list[TrainingSequence]]:
    """What each step trains on, over all epochs; in the same order every time, as in the authors' code."""
    size = settings.batch_size
    return [sequences[begin : begin + size] for begin in range(0, len(sequences), size)] * settings.epochs


def _loss(base: BaseLLM, sequences: list[TrainingSequence], owners: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over each owner's supervised tokens, added up over the owners. owners (B,): whose each sequence is."""
    longest = max(len(ids) for ids, _ in sequences)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in sequences], device=base.device)  # (B, T)
    targets = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in sequences], device=base.device)
    attention = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in sequences], device=base.device)
    logits = base.model(input_ids=ids, attention_mask=attention, use_cache=False).logits  # (B, T, V)
    aims, owners = targets[:, 1:], owners.to(base.device)
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), aims.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counts = torch.zeros(int(owners.max()) + 1, device=base.device).index_add(0, owners, (aims != IGNORED).sum(dim=1).float())
    return (losses.view(aims.shape).sum(dim=1) / counts[owners]).sum()


def _exported(base: BaseLLM, state: dict[str, torch.Tensor], settings: PragSettings) -> LoraWeights:
    tensors = {}
    for layer in range(base.model.config.num_hidden_layers):
        for module in settings.target_modules:
            for name in tensor_names(module_key(layer, module)):
                tensors[name] = state[name.replace(".weight", ".default.weight")].detach().float().clone()
    record = AdapterRecord(alpha=settings.alpha, rank=settings.rank, base=base.identity, generator="prag")
    return LoraWeights.assemble(tensors, record)


def concatenated(adapters: Sequence[LoraWeights]) -> LoraWeights:
    """One adapter that adds what all of them add; each keeps its own scaling alpha / rank.

    Raises InputError without adapters, IncompatibleBaseError for adapters of different bases.
    """
    if not adapters:
        raise InputError("there is no adapter to concatenate; pass at least one document")
    first = adapters[0]
    for other in adapters[1:]:
        other.base.require(first.base, "An adapter to concatenate")
    modules = {
        key: LoraPair(
            torch.cat([adapter.modules[key].a for adapter in adapters], dim=0),
            torch.cat([adapter.modules[key].b * (adapter.scaling / first.scaling) for adapter in adapters], dim=1),
        )
        for key in first.modules
    }
    rank = sum(adapter.rank for adapter in adapters)
    return LoraWeights(modules, first.scaling * rank, first.base, first.generator)


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
