"""The frozen base LLM: loaded and checked with its tokenizer and mask token, its hidden states of passages, its answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from distilledprag.base.architecture import FAMILIES, decoder_layers, embedding_table, hidden_after, steady_length
from distilledprag.base.masks import check_mask, mask_record
from distilledprag.base.prepared import RECORD, prepared_record
from distilledprag.errors import CheckpointError, InputError
from distilledprag.files import replace_folder
from distilledprag.lora.identity import BaseIdentity, tensors_hash
from distilledprag.lora.injection import inject, written_states
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder

MAX_ANSWER_TOKENS = 64
LONG = 256  # tokens of a passage from which on running the opening again costs no more: a kept past needs a mask, and with one
# PyTorch's attention on a CPU also computes what it masks (docs/performance.md)
_SAMPLED = 4096  # values of a tensor that tell trained weights from others
_GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")

Passages = Mapping[str, Sequence[int]]  # text -> ids of its tokens


@dataclass
class BaseLLM:
    """A base LLM ready for use: in evaluation mode, without gradients, with an installed mask token."""

    model: PreTrainedModel
    tokenizer: Any
    mask_token_id: int
    identity: BaseIdentity
    id: str

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def context_length(self) -> int:
        """The longest sequence the model can read, in tokens."""
        return int(self.model.config.max_position_embeddings)


def chosen_device(wanted: str | None = "auto") -> str:
    """The device that `wanted` names; "auto" and None: a CUDA GPU where there is one, else the CPU."""
    if wanted not in ("auto", None):
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_base(path_or_id: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> BaseLLM:
    """Load a base from a folder or a hub id. `dtype` None keeps the precision it is stored in.

    Raises CheckpointError for a missing or damaged folder (weights that are not finite included), a model that is no
    causal LM of a supported architecture, and a base without a mask token or with one that does not match its record.
    """
    model, tokenizer = load_unmasked_base(path_or_id, dtype=dtype)
    record = mask_record(model)
    if record is None:
        raise CheckpointError(
            f"the base model {str(path_or_id)!r} has no mask token yet; make a copy that has one with "
            f"`dprag prepare-base {path_or_id} --out DIR` and use DIR"
        )
    check_mask(model, tokenizer, record)
    name = _name(path_or_id)
    model.requires_grad_(False).eval().to(device)
    identity = _identity_of_encoder(path_or_id) or BaseIdentity.of(model, record.id, name)
    return BaseLLM(model, tokenizer, record.id, identity, name)


def describe_base(folder: str | Path) -> BaseLLM:
    """A prepared base without its weights (they are on torch's `meta` device): tokenizer, configuration, identity.

    For an engine whose model runs elsewhere. Raises CheckpointError for what is no prepared base.
    """
    record = prepared_record(folder)
    source = _source(folder)
    config = _read(folder, "config.json", lambda: AutoConfig.from_pretrained(source))
    tokenizer = _read(folder, "tokenizer", lambda: _tokenizer(source))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = _read(folder, "generation settings", lambda: GenerationConfig.from_pretrained(source))
    mask = mask_record(model)
    if mask is None or tokenizer.get_vocab().get(mask.token) != mask.id:
        raise CheckpointError(f"the base {str(folder)!r} does not have the mask token that it says; prepare it again")
    return BaseLLM(model.eval(), tokenizer, mask.id, BaseIdentity.from_dict(record.identity), _name(folder))


def _identity_of_encoder(path_or_id: str | Path) -> BaseIdentity | None:
    """A prepared base and its encoder (fewer layers) share the identity that `prepare-base` wrote beside both."""
    file = Path(path_or_id).expanduser() / RECORD
    if not file.is_file():
        return None
    try:
        return BaseIdentity.from_dict(json.loads(file.read_text(encoding="utf-8"))["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged; prepare the base again with `dprag prepare-base`") from error


def load_unmasked_base(path_or_id: str | Path, *, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """Load model and tokenizer, on the CPU, whether or not a mask is installed.

    Errors as in `load_base`, except for those about the mask.
    """
    source = _source(path_or_id)
    config = _read(path_or_id, "config.json", lambda: AutoConfig.from_pretrained(source))
    architectures = getattr(config, "architectures", None) or []
    if config.model_type not in FAMILIES or not all(name.endswith("ForCausalLM") for name in architectures):
        raise CheckpointError(
            f"{str(path_or_id)!r} is a {config.model_type} model ({', '.join(architectures) or 'unnamed'}); "
            f"a base must be a causal language model of one of these types: {', '.join(FAMILIES)}"
        )
    tokenizer = _read(path_or_id, "tokenizer", lambda: _tokenizer(source))
    model, report = _read(
        path_or_id,
        "weights",
        lambda: AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", output_loading_info=True),
    )
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise CheckpointError(
            f"the weights of {str(path_or_id)!r} lack {len(wrong)} tensors or have them in the wrong shape, "
            f"{wrong[0]} first; copy the base again"
        )
    broken = next((name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise CheckpointError(
            f"the weights of {str(path_or_id)!r} have values that are not finite, {broken} first; copy the base again"
        )
    rows, highest = len(embedding_table(model)), max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise CheckpointError(
            f"the tokenizer of {str(path_or_id)!r} writes ids up to {highest}, its embedding table has "
            f"{rows} rows; the folder mixes files of two bases"
        )
    return model, tokenizer


def save_base(model: PreTrainedModel, tokenizer: Any, folder: str | Path) -> None:
    """Write a base so that `load_base` and `AutoModelForCausalLM` read it: all of it, or nothing at all."""
    with replace_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def weights_hash(model: torch.nn.Module) -> str:
    """Short hash of all weights as half precision."""
    return tensors_hash(model.state_dict())[:12]


def lower_weights_hash(model: torch.nn.Module, layer: int) -> bytes:
    """SHA-256 of a sample of the weights that decide the states after `layer`: the embeddings and the layers up to it.

    The same for a base and its encoder, in whatever precision they are loaded; another one once any of these was trained.
    """
    digest = hashlib.sha256()
    layers = decoder_layers(model)
    tensors = [
        embedding_table(model),
        *(tensor for number in range(layer + 1) for tensor in layers[number].state_dict().values()),
    ]
    for tensor in tensors:
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLED)]
        digest.update(sample.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()


# --- hidden states of passages, each alone behind the opening of a prompt, which is run once for all of them
#
#     B = passages of a batch   T = tokens of the longest   h = tokens of the opening   H = key-value heads   W = width of one
#
#     opening   template, instruction, "Passage 1:"  --layers 0..L, once-->   keys and values (1, H, h, W) of every layer
#     passages  (B, T), padded on the right  --layers 0..L, reading those keys and values-->   states (n, D), one row a token
#
# A token sees only what stands before it, so the opening is the same for every passage, and no token of a passage sees padding.
# The states differ from those of a run over opening and passage by rounding, as those of two batches do.


class PassageEncoder:
    """Reads passages for one base, whose weights stay as they are, and the prompts of one builder.

    Holds the keys and values of one opening, up to the highest layer that was asked for. As safe to share between threads as a
    run of the base is.
    """

    def __init__(self, base: BaseLLM, prompts: PromptBuilder) -> None:
        self._base, self._prompts = base, prompts
        self._opening: _Opening | None = None

    def tokenized(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Each text once, with the ids of its tokens. Raises InputError for an unusable text."""
        return {text: self._prompts.document_ids(text) for text in texts}

    @torch.inference_mode()
    def states(self, passages: Passages, layers: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """For each of `layers`, by passage: its tokens' states (n, D). All passages go in one batch; where the base reads longer
        sequences otherwise, those that are longer go in a second one.

        Raises InputError for a passage that is longer with its prompt than the base reads.
        """
        base, opening = self._base, len(self._opening_ids)
        longest = opening + max(map(len, passages.values()))
        if longest > base.context_length:
            raise InputError(f"a passage with its prompt has {longest} tokens; the base reads {base.context_length}: split it")
        none = torch.zeros(0, base.model.config.hidden_size, dtype=base.model.dtype, device=base.device)
        found = {layer: dict.fromkeys(passages, none) for layer in layers}
        steady = steady_length(base.model) - opening
        usual = {text: ids for text, ids in passages.items() if 0 < len(ids) <= steady}
        longer = {text: ids for text, ids in passages.items() if len(ids) > max(0, steady)}
        for batch in filter(None, (usual, longer)):
            for layer, made in self._run(
                batch, layers, behind_kept=batch is usual and max(map(len, batch.values())) < LONG
            ).items():
                found[layer] |= made
        return found

    def _run(self, batch: Passages, layers: Sequence[int], *, behind_kept: bool) -> dict[int, dict[str, Tensor]]:
        """States of one batch. behind_kept: whether it reads the kept opening; otherwise the opening is run with each passage."""
        opening = [] if behind_kept else self._opening_ids
        past = {"past_key_values": self._kept_opening(max(layers))} if behind_kept else {}
        rows = padded([[*opening, *ids] for ids in batch.values()], self._prompts.end_of_turn_id, self._base.device)
        begin = len(opening)
        return {  # copies: a view would hold the whole batch in memory
            layer: {text: hidden[row, begin : begin + len(batch[text])].clone() for row, text in enumerate(batch)}
            for layer, hidden in hidden_after(self._base.model, layers, input_ids=rows, **past).items()
        }

    @cached_property
    def _opening_ids(self) -> list[int]:
        return self._prompts.context([""]).open_ids

    def _kept_opening(self, layer: int) -> Cache:
        """What a batch that is run up to `layer` reads as its past. Never changed once made, so runs may share it."""
        base, opening = self._base, self._opening
        where = base.device, base.model.dtype
        if opening is None or opening.layer < layer or opening.where != where:
            made = Cache(layer_class_to_replicate=DynamicLayer)
            ids = torch.tensor([self._opening_ids], device=base.device)
            hidden_after(base.model, [layer], input_ids=ids, past_key_values=made)
            opening = self._opening = _Opening(layer, where, Cache(layers=[_FixedLayer(one) for one in made.layers]))
        return opening.past


@dataclass(frozen=True)
class _Opening:
    """layer: up to which it was run. where: device and precision of its keys and values."""

    layer: int
    where: tuple[torch.device, torch.dtype]
    past: Cache


class _FixedLayer(DynamicLayer):
    """Keys and values (1, H, h, W) of the opening in one layer, which passages read and do not add to. made: the layer that a run
    over it filled. All of it is held, also where attention reaches a window back only: the mask sees to that."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = made.keys, made.values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The opening's keys and values, and behind them those of the passages (B, H, T, W)."""
        assert self.keys is not None and self.values is not None
        rows = (len(key_states), -1, -1, -1)
        keys = torch.cat([self.keys.expand(rows), key_states], dim=2)
        return keys, torch.cat([self.values.expand(rows), value_states], dim=2)


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Token ids (rows, T), padded on the right to the longest row's T. With causal attention no token sees padding, so a run over
    them needs no mask."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)


# --- greedy decoding with an adapter per prompt. Prompts are padded on the left, so that every row ends at the same column.


@torch.no_grad()
def greedy_ids(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter | None] | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, row by row, without the stop token. Mask tokens are never written.

    adapters: one LoRA per prompt (or one for all), or None for the bare base model.
    states: one state adapter (or None) per prompt, with a row for every mask of its prompt.
    Raises InputError for a state adapter that does not fit its prompt or the base (see `written_states`).
    """
    longest = max(len(prompt) for prompt in prompts)
    pad = base.tokenizer.pad_token_id if base.tokenizer.pad_token_id is not None else stop_id
    ids = torch.full((len(prompts), longest), pad)
    attention = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        attention[row, longest - len(prompt) :] = 1
    generate: Any = base.model.generate
    with contextlib.ExitStack() as changes:
        if adapters is not None:
            changes.enter_context(inject(base.model, adapters))
        if states is not None:
            changes.enter_context(written_states(base.model, states, ids == base.mask_token_id))
        output = generate(
            input_ids=ids.to(base.device),
            attention_mask=attention.to(base.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=stop_id,
            pad_token_id=pad,
        )
    answers = output[:, longest:].tolist()
    return [answer[: answer.index(stop_id)] if stop_id in answer else answer for answer in answers]


def greedy_texts(
    base: BaseLLM,
    prompts: Sequence[Sequence[int]],
    adapters: LoraBatch | None,
    stop_id: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
    states: Sequence[StateAdapter | None] | None = None,
) -> list[str]:
    """`greedy_ids` as text, without special tokens and surrounding space."""
    answers = greedy_ids(base, prompts, adapters, stop_id, max_tokens, states)
    return [base.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


# --- reading what is on disk


def _source(path_or_id: str | Path) -> str:
    """What transformers is given: an existing folder, or a hub id. Raises CheckpointError for a path to
    nothing.
    """
    text = str(path_or_id)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"the folder {text!r} holds no base model: it has no config.json")
        return str(folder)
    if folder.exists():
        raise CheckpointError(f"{text!r} is a file; name the folder that holds the base model")
    if isinstance(path_or_id, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise CheckpointError(f"there is no base model folder {text!r}; check the path")
    return text


def _tokenizer(source: str) -> Any:
    """The tokenizer as it was saved. (For Qwen2, AutoTokenizer turns a generic one into its own class.)"""
    if get_tokenizer_config(source).get("tokenizer_class") in _GENERIC_TOKENIZERS:
        return PreTrainedTokenizerFast.from_pretrained(source)
    return AutoTokenizer.from_pretrained(source)


def _name(path_or_id: str | Path) -> str:
    """The base's public name: a hub id as it is, of a folder only its last part (paths say where one's files
    lie).
    """
    folder = Path(path_or_id).expanduser()
    return folder.resolve().name if folder.is_dir() else str(path_or_id)


def _read(path_or_id: str | Path, what: str, load: Any) -> Any:
    """Call `load`; whatever transformers raises on a bad checkpoint becomes a CheckpointError."""
    try:
        return load()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"the {what} of the base model {str(path_or_id)!r} cannot be loaded: {reason}") from error
