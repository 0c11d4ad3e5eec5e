"""Blind compression of state adapters: fewer rows than tokens, made without seeing the question.

    n = tokens of a passage   m = its memory tokens (one for each group of tokens)   D = hidden size   L = `layer`
    B = passages   T = n + m and the prompt's opening   N, M = tokens and memory tokens of all passages

    opening, passage --layers 0..`merge_after`--> a state a token --mean of each group--> its memory token, put behind the passage
    all of them --layers `merge_after` + 1..L, with a small LoRA--> the memory tokens' states: the rows that are written after L

With `merge_after` near 0 these are memory tokens appended to the passage (gist tokens); with `merge_after` = L - 1 they are
pooled queries, which read the passage in one layer. A memory token stands at the position of its group's last token and sees
what that token sees, and the memory tokens before it; so an untrained one is a mean of states, and the LoRA learns the rest. It
is trained by `distillation/compressor_training.py`. Untrained, means destroy the content: there is nothing to ship without a
checkpoint.

With `memory: kept` no token is added: the rarest tokens of a passage (by how often each stands in the training passages) are its
memory tokens, and each gathers what stands between it and the one before. Untrained these are exact states of some of the tokens,
of which much can be read already; the LoRA learns to put the rest into them.

`decoder_rank` > 0 adds a document-independent LoRA on the layers above L, trained along, that reads merged rows (as PISCO's
decoder does); a request with such rows is answered with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from distilledprag.base.architecture import (
    ATTENTION_TARGETS,
    MLP_TARGETS,
    changed_layer_output,
    decoder_layers,
    hidden_after,
    module_shapes,
    split_module_key,
)
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.files import replace_folder
from distilledprag.generators.interface import find_checkpoint, read_config, read_weights, require_fitting, write_checkpoint
from distilledprag.lora.identity import BaseIdentity, tensors_hash
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraBatch, SharedLora
from distilledprag.prompts import PromptBuilder

ARCHITECTURE = "compressed"


class CompressorSettings(Settings):
    """ratios: tokens a row that it is trained for. layer: L. rank, decoder_rank: of the LoRAs below and above L; alpha = rank.
    memory: tokens appended to a passage, or some of its own that are kept."""

    model_config = ConfigDict(extra="forbid")
    architecture: Literal["compressed"] = "compressed"
    ratios: tuple[int, ...] = (2, 4, 8)
    layer: int = Field(8, gt=0)
    memory: Literal["appended", "kept"] = "appended"
    merge_after: int = Field(0, ge=0)
    rank: int = Field(16, gt=0)
    decoder_rank: int = Field(0, ge=0)

    @model_validator(mode="after")
    def possible(self) -> CompressorSettings:
        if self.merge_after >= self.layer:
            raise ValueError(f"merge_after {self.merge_after}: tokens are merged below layer {self.layer}, or nothing reads them")
        if not self.ratios or min(self.ratios) < 2:
            raise ValueError("ratios: give whole numbers from 2")
        return self


def group_sizes(count: int, ratio: int) -> list[int]:
    """Sizes of the groups that `count` tokens are merged in: `ratio` each, the last one what is left."""
    return [min(ratio, count - begin) for begin in range(0, count, ratio)]


@dataclass
class _Rows:
    """One passage a row, appended memory tokens behind it: ids, positions (B, T); attention (B, 1, T, T). sources: (N,) flat
    positions of the passages' tokens; groups: (N,) the memory token that each goes into, of all M; targets: (M,) their flat
    positions."""

    ids: Tensor
    positions: Tensor
    attention: Tensor
    sources: Tensor
    groups: Tensor
    targets: Tensor


class StateCompressor(nn.Module):
    """See the module's docstring. information: (V,), with kept memory tokens.

    Raises ConfigError for layers that the base does not have.
    """

    information: Tensor

    def __init__(self, settings: CompressorSettings, base: BaseLLM) -> None:
        super().__init__()
        layers = len(decoder_layers(base.model))
        if settings.layer >= layers - 1:
            raise ConfigError(f"layer {settings.layer}: the base has layers 0 to {layers - 1}, and one must read what is written")
        self.settings, self.base_identity = settings, base.identity
        self.prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
        width = int(base.model.config.hidden_size)
        self.memory = nn.Parameter(torch.zeros(width))
        if settings.memory == "kept":
            self.register_buffer("information", torch.zeros(int(base.model.config.vocab_size)))
        shapes = module_shapes(base.model.config, (*ATTENTION_TARGETS, *MLP_TARGETS))
        below = {k: s for k, s in shapes.items() if settings.merge_after < split_module_key(k)[0] <= settings.layer}
        above = {k: s for k, s in shapes.items() if split_module_key(k)[0] > settings.layer}
        self.encoder = SharedLora(below, settings.rank)
        self.decoder = SharedLora(above, settings.decoder_rank) if settings.decoder_rank else None

    def learn_frequencies(self, passages: Iterable[str]) -> None:
        """For kept memory tokens: what each token of the vocabulary tells, -log of its frequency in these passages."""
        counts = torch.full((len(self.information),), 0.5, dtype=torch.float64)  # on the CPU, wherever the compressor is
        for text in passages:
            ids = torch.tensor(self.prompts.document_ids(text), dtype=torch.long)
            counts.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
        self.information.copy_(-(counts / counts.sum()).log().half())  # as it is saved

    def group(self, ids: Sequence[int], ratio: int) -> list[int]:
        """Sizes of the groups that a passage's (or a sentence's) tokens go in, a group for every `ratio` tokens; the last token
        of each is the one that is kept, where tokens are."""
        count = -(-len(ids) // ratio)
        if self.settings.memory == "appended" or not ids:
            return group_sizes(len(ids), ratio)
        told = self.information.cpu()[torch.tensor(ids)]
        told[-1] = torch.inf  # what stands behind the last kept token would be lost
        kept = told.argsort(descending=True, stable=True)[:count].sort().values
        return torch.diff(kept, prepend=torch.tensor([-1])).tolist()

    def forward(self, base: BaseLLM, passages: Sequence[str], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Rows (m, D) of each passage; differentiable. sizes: of the groups of each passage's tokens, which they add up to.

        Raises InputError for a passage without text, and for one that is too long for the base.
        """
        rows = self._laid_out(base, passages, sizes)

        def merge(hidden: Tensor) -> Tensor:
            flat = hidden.flatten(0, 1)
            if self.settings.memory == "kept":
                return flat.index_add(0, rows.targets, self.memory.to(flat.dtype).expand(len(rows.targets), -1)).view_as(hidden)
            sums = torch.zeros(len(rows.targets), flat.shape[1], device=flat.device)
            sums = sums.index_add(0, rows.groups, flat[rows.sources].float())
            counts = rows.groups.bincount(minlength=len(rows.targets))
            merged = (sums / counts[:, None] + self.memory).to(flat.dtype)
            return flat.index_copy(0, rows.targets, merged).view_as(hidden)

        layer = self.settings.layer
        with inject(base.model, self.encoder.batch()), changed_layer_output(base.model, self.settings.merge_after, merge):
            hidden = hidden_after(
                base.model, [layer], input_ids=rows.ids, position_ids=rows.positions, attention_mask=rows.attention
            )[layer]
        found = hidden.flatten(0, 1)[rows.targets]
        return list(found.split([len(one) for one in sizes]))

    @torch.no_grad()
    def compress(self, base: BaseLLM, passages: Sequence[str], ratio: int) -> list[Tensor]:
        """Rows (m, D) float32 of each passage that has text, `ratio` tokens a row."""
        texts, sizes = self.grouped(passages, ratio)
        if not texts:
            raise InputError("there is no text to encode; give at least one passage that is not empty")
        return [rows.float() for rows in self(base, texts, sizes)]

    def grouped(self, passages: Sequence[str], ratio: int) -> tuple[list[str], list[list[int]]]:
        """The passages that have text, and the sizes of the groups of each one's tokens, `ratio` tokens a group."""
        ids = [self.prompts.document_ids(text) for text in passages]
        texts = [text for text, own in zip(passages, ids, strict=True) if own]
        return texts, [self.group(own, ratio) for own in ids if own]

    def decoder_batch(self) -> LoraBatch | None:
        """The LoRA on the layers above L, one for all prompts; None for a compressor without one."""
        return self.decoder.batch() if self.decoder else None

    def _laid_out(self, base: BaseLLM, passages: Sequence[str], sizes: Sequence[Sequence[int]]) -> _Rows:
        built = [self.prompts.context([text]) for text in passages]
        appended = self.settings.memory == "appended"
        longest = max(len(prompt) + appended * len(groups) for prompt, groups in zip(built, sizes, strict=True))
        if longest > base.context_length:
            raise InputError(f"a passage with its memory tokens has {longest} tokens; the base reads {base.context_length}")
        shape = (len(built), longest)
        ids = torch.full(shape, self.prompts.mask_token_id)
        positions = torch.full(shape, longest)  # of padding: beyond what any token sees
        memory = torch.zeros(shape, dtype=torch.bool)
        sources: list[int] = []
        numbers: list[int] = []
        targets: list[int] = []
        for row, (prompt, groups) in enumerate(zip(built, sizes, strict=True)):
            begin, end = prompt.is_document.index(True), len(prompt)
            if sum(groups) != end - begin:
                raise InputError(f"groups of {sum(groups)} tokens for a passage of {end - begin}")
            ids[row, :end] = torch.tensor(prompt.open_ids)
            positions[row, :end] = torch.arange(end)
            memory[row, end : end + appended * len(groups)] = True
            last = begin - 1
            for place, size in enumerate(groups, start=end):
                sources += range(row * longest + last + 1, row * longest + last + 1 + size)
                numbers += [len(targets)] * size
                last += size
                targets.append(row * longest + (place if appended else last))
                if appended:
                    positions[row, place] = last
        # By positions: a memory token sees what its group's last token sees, and the memory tokens before it.
        sees = positions[:, None, :] <= positions[:, :, None]
        sees &= ~memory[:, None, :] | (memory[:, :, None] & torch.ones(longest, longest, dtype=torch.bool).tril())
        sees |= torch.eye(longest, dtype=torch.bool)
        dtype = base.model.dtype
        attention = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
        index = [torch.tensor(values, device=base.device) for values in (sources, numbers, targets)]
        return _Rows(ids.to(base.device), positions.to(base.device), attention.to(base.device), *index)

    def own_weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    @property
    def identity(self) -> str:
        """A short hash of the settings and of the weights as half precision."""
        settings = json.dumps(self.settings.model_dump(mode="json"), sort_keys=True).encode()
        return f"{ARCHITECTURE}-{tensors_hash(self.own_weights(), settings)[:12]}"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint folder in one step, the weights in half precision."""
        weights = {name: tensor.half() for name, tensor in self.own_weights().items()}
        config = {
            "architecture": ARCHITECTURE,
            "settings": self.settings.model_dump(mode="json"),
            "base": self.base_identity.to_dict(),
            "parameters": sum(tensor.numel() for tensor in weights.values()),
        }
        with replace_folder(folder) as temporary:
            write_checkpoint(temporary, config, weights)


def load_compressor(path: str | Path, base: BaseLLM) -> StateCompressor:
    """Raises IncompatibleBaseError for another base's, CheckpointError for a folder that holds none or a damaged one."""
    folder = find_checkpoint(path)
    config = read_config(folder)
    if config["architecture"] != ARCHITECTURE:
        raise CheckpointError(f"{folder} holds a generator of architecture {config['architecture']}, not a compressor of states")
    BaseIdentity.from_dict(config["base"]).require(base.identity, f"The compressor in {folder}")
    try:
        compressor = StateCompressor(CompressorSettings(**config["settings"]), base)
    except ValidationError as error:
        raise CheckpointError(f"the settings in {folder} are not a compressor's: {error.errors()[0]['msg']}") from error
    weights = read_weights(folder)
    require_fitting(folder, weights, compressor.own_weights())
    compressor.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return compressor.to(base.device).eval().requires_grad_(False)
