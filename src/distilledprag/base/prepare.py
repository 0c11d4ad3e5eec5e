"""`prepare-base`: the served base of any LLM. Mask tokens for both paths, A, and a reader merged where there is one.

    exact path        the paper's one mask token; the engine writes states after layer `layer`
    plain PEFT path   numbered mask tokens; a LoRA on the down projection of `plain_layer`, whose A belongs to the base

The result is two ordinary HF folders: the served base, and beside it `<name>-encoder`, the trusted side's part (embeddings and
the layers that encode, nothing above). Beside their weights lie `distilledprag.json` (layers, ids of the numbered masks, the
served base's identity) and `masks.safetensors` (A).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distilledprag.base import masks
from distilledprag.base.architecture import adds_mlp_output, backbone, decoder_layers
from distilledprag.base.mask import install_mask
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder
from distilledprag.lora.identity import BaseIdentity

RECORD, MASKS = "distilledprag.json", "masks.safetensors"


@dataclass(frozen=True)
class PreparedRecord:
    """What a prepared base says of itself. reader: whether one is merged. identity: the served base's, also in its encoder."""

    layer: int
    plain_layer: int
    first_numbered: int
    masks: int
    reader: bool
    identity: dict[str, str]

    @property
    def numbered(self) -> range:
        return range(self.first_numbered, self.first_numbered + self.masks)


def prepared_record(folder: str | Path) -> PreparedRecord:
    """Raises CheckpointError for a folder that `prepare_base` did not write."""
    file = Path(folder) / RECORD
    try:
        return PreparedRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{str(folder)!r} is no prepared base ({RECORD} is missing or unreadable); make one with "
            f"`dprag prepare-base {folder} --out DIR` and use DIR"
        ) from error


def prepare_base(
    source: str | Path,
    out: str | Path,
    *,
    weights: Path | None = None,
    count: int = 512,
    layer: int | None = None,
    plain_layer: int | None = None,
    steps: int = 20,
) -> PreparedRecord:
    """Write the served base of `source` (folder or hub id) to `out`, whole or not at all.

    weights: folder with `reader.safetensors` and `masks.safetensors` as training wrote them; without, the base stays as it is
    and its masks are optimised here. layer, plain_layer: None takes what the reader was trained for, or without a reader
    a seventh of the layers for both (untrained, quality falls with depth).
    Raises ConfigError for layers that do not exist, CheckpointError for a base or weights that cannot be used.
    """
    from distilledprag.base.llm import load_unmasked_base
    from distilledprag.base.reader import load_tensors, merge_factors
    from distilledprag.prompts import PromptBuilder

    model, tokenizer = load_unmasked_base(source)
    model.requires_grad_(False).eval()
    layers = len(decoder_layers(model))
    shipped = json.loads((weights / "training.json").read_text())["settings"] if weights else {}
    shallow = max(1, layers // 7)
    layer = layer if layer is not None else int(shipped.get("layer", shallow))
    plain_layer = plain_layer if plain_layer is not None else int(shipped.get("plain_layer", shallow))
    for name, value in (("--layer", layer), ("--plain-layer", plain_layer)):
        if not 0 <= value < layers:
            raise ConfigError(f"{name} {value}: the base has layers 0 to {layers - 1}")
    tokens = add_mask_tokens(model, tokenizer, count)
    if weights:
        merge_factors(model, load_tensors(weights / "reader.safetensors"))
        trained = load_tensors(weights / MASKS)
        if len(trained["embeddings"]) != count or plain_layer != shipped["plain_layer"]:
            raise ConfigError(f"this reader's masks are {len(trained['embeddings'])}, made for layer {shipped['plain_layer']}")
        tokens.write(model, trained["embeddings"])
        a = trained["a"]
    elif adds_mlp_output(model):
        prompts = PromptBuilder(tokenizer, tokens.mask_id)
        questions = [prompts.question(text) + prompts.answer_ids(answer) for text, answer in _ORDINARY]
        opening = prompts.context(["."]).masked_ids[:-1]
        ordinary = [opening + question for question in questions]
        moment = masks.second_moment(model, plain_layer, ordinary, [[0.0] + [1.0] * (len(ids) - 1) for ids in ordinary])
        embeddings, a = tokens.optimise(model, plain_layer, opening, moment, steps)
        tokens.write(model, embeddings)
    else:
        a = torch.zeros(count, model.config.intermediate_size)
    identity = BaseIdentity.of(model, tokens.mask_id, Path(out).name).to_dict()
    record = PreparedRecord(layer, plain_layer, tokens.numbered[0], count, weights is not None, identity)
    _write(model, tokenizer, record, a, Path(out))
    decoder = backbone(model)
    kept = max(layer, plain_layer) + 1
    decoder.layers = decoder.layers[:kept]
    model.config.num_hidden_layers = kept
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:kept]
    _write(model, tokenizer, record, a, encoder_folder(out))
    return record


def encoder_folder(base: str | Path) -> Path:
    """Where the trusted side's part of a prepared base lies."""
    return Path(base).with_name(Path(base).name + "-encoder")


def _write(model: Any, tokenizer: Any, record: PreparedRecord, a: Tensor, out: Path) -> None:
    with replace_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n")
        save_file({"a": a.half().contiguous().cpu()}, folder / MASKS)


_ORDINARY = (
    ("Who wrote the report about the bridge?", "Maria Lindgren"),
    ("When does the contract end?", "31 March 2026"),
    ("How much does the larger model cost?", "$1,249.50"),
    ("where was the first meeting held", "the town hall of Aldermere"),
    ("Which of the two companies was founded earlier, Brennan Freight or Halden Mills?", "Halden Mills"),
    ("Is the warranty still valid?", "yes"),
    ("What is the reference number of the delivery?", "KX-20417-B"),
    ("Why did the committee move the deadline?", "because the audit had not been finished"),
)


@dataclass(frozen=True)
class MaskTokens:
    """mask_id: the paper's mask. numbered: ids of the numbered masks, consecutive."""

    mask_id: int
    numbered: range

    def optimise(self, model: Any, layer: int, opening: Sequence[int], moment: Tensor, steps: int = 20) -> tuple[Tensor, Tensor]:
        """Embeddings (M, D) and A (M, U) for plain adapters on `layer`; see `masks.optimise`."""
        start = model.get_input_embeddings().weight[self.numbered].float()
        return masks.optimise(model, layer, opening, start, moment, steps=steps, progress=_report)

    def write(self, model: Any, embeddings: Tensor) -> None:
        """Put the numbered masks' embeddings in the table, rounded as they are shipped (half precision)."""
        table = model.get_input_embeddings().weight
        with torch.no_grad():
            table[self.numbered] = embeddings.half().to(table)


def add_mask_tokens(model: Any, tokenizer: Any, count: int, seed: int = 0) -> MaskTokens:
    """Install the paper's mask token and `count` numbered ones, with sampled embeddings, in place."""
    mask_id = install_mask(model, tokenizer, seed=seed)
    names = [masks.NUMBERED.format(number) for number in range(count)]
    tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    vocabulary = tokenizer.get_vocab()
    numbered = range(vocabulary[names[0]], vocabulary[names[0]] + count)
    table = model.get_input_embeddings().weight
    sampled = masks.sampled_embeddings(table[:mask_id], count, seed + 1)
    if table.shape[0] < numbered.stop:
        model.resize_token_embeddings(numbered.stop, mean_resizing=False)
    tokens = MaskTokens(mask_id, numbered)
    tokens.write(model, sampled)
    return tokens


def _report(step: int, energy: float) -> None:
    if step % 10 == 0:
        print(f"masks: step {step}, crosstalk energy a row {energy:.2e}", flush=True)
