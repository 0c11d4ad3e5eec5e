"""`prepare-base`: the served base of any LLM. Mask tokens for both paths, A, and a reader merged where there is one.

    exact path        the paper's one mask token; the engine writes states after layer `layer`
    plain PEFT path   numbered mask tokens; a LoRA on the down projection of `plain_layer`, whose A belongs to the base

The result is two ordinary HF folders: the served base, and beside it `<name>-encoder`, the trusted side's part (embeddings and
the layers that encode, nothing above). Beside their weights lie `distilledprag.json` (layers, how they were measured, ids of the
numbered masks, the served base's identity) and, in the folder `distilledprag`, A and a sentence scorer if there is one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from distilledprag.base.architecture import adds_mlp_output, decoder_layers, keep_layers
from distilledprag.base.layer_choice import built_in_questions, choose_layer
from distilledprag.base.llm import BaseLLM, load_unmasked_base
from distilledprag.base.masks import MaskTokens, add_mask_tokens
from distilledprag.base.prepared import MASKS, RECORD, SCORER_FILE, PreparedRecord, encoder_folder, part_of
from distilledprag.base.reader import CARD, READER, load_tensors, merge_factors
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.files import replace_folder
from distilledprag.lora.identity import BaseIdentity
from distilledprag.prompts import PromptBuilder


def prepare_base(
    source: str | Path,
    out: str | Path,
    *,
    weights: Path | None = None,
    count: int = 512,
    layer: int | None = None,
    plain_layer: int | None = None,
    steps: int = 20,
    questions: int | None = None,
    made_by: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> PreparedRecord:
    """Write the served base of `source` (folder or hub id) to `out`, and its encoder beside it, each whole or not at all.

    weights: folder with `reader.safetensors` and `masks.safetensors` as training wrote them, and a sentence scorer if there is
        one; without, the base stays as it is and its masks are optimised here, in `steps` steps.
    count: of numbered masks.
    layer, plain_layer: None takes what the reader was trained for. Without a reader `layer` is measured on the first
        `questions` built-in questions (None: all 24), and `plain_layer` is a seventh of the layers: crosstalk grows with depth.
    made_by: the command that prepares this base, which its adapters name; None: `dprag prepare-base` with the source.
    progress: told about what takes long.
    Raises ConfigError for layers that do not exist, CheckpointError for a base or weights that cannot be used.
    """
    model, tokenizer = load_unmasked_base(source)
    model.requires_grad_(False).eval()
    layers = len(decoder_layers(model))
    trained = _training_settings(weights) if weights else {}
    plain_layer = plain_layer if plain_layer is not None else int(trained.get("plain_layer", max(1, layers // 7)))
    layer = layer if layer is not None or not weights else int(trained["layer"])
    for name, value in (("--layer", layer), ("--plain-layer", plain_layer)):
        if value is not None and not 0 <= value < layers:
            raise ConfigError(f"{name} {value}: the base has layers 0 to {layers - 1}")
    tokens = add_mask_tokens(model, tokenizer, count)
    if weights:
        merge_factors(model, load_tensors(weights / READER))
        masks = load_tensors(weights / MASKS)
        if len(masks["embeddings"]) != count or plain_layer != trained["plain_layer"]:
            raise ConfigError(f"this reader's masks are {len(masks['embeddings'])}, made for layer {trained['plain_layer']}")
        embeddings, a = masks["embeddings"], masks["a"]
        tokens.write(model, embeddings)
    else:
        a = _fitted_masks(model, tokenizer, tokens, plain_layer, steps, progress)
    made_by = made_by or _command(source, Path(out), count, model)
    identity = BaseIdentity.of(model, tokens.mask_id, f"{Path(out).name} ({made_by})", a)
    measured = None
    if layer is None:
        base = BaseLLM(model, tokenizer, tokens.mask_id, identity, Path(out).name)
        table = choose_layer(base, questions=built_in_questions()[:questions], progress=progress)
        layer, measured = table.chosen, table.to_dict()
    record = PreparedRecord(layer, plain_layer, tokens.numbered[0], count, weights is not None, identity.to_dict(), measured)
    scorer = weights / SCORER_FILE if weights else None
    _write(model, tokenizer, record, a, scorer, Path(out))
    keep_layers(model, max(layer, plain_layer) + 1)
    _write(model, tokenizer, record, a, scorer, encoder_folder(out))
    return record


def _command(source: str | Path, out: Path, count: int, model: PreTrainedModel) -> str:
    """How to prepare the base again, from a hub id with its revision, or from a folder by its name."""
    folder = Path(source).expanduser()
    name = folder.resolve().name if folder.is_dir() else str(source)
    masks = "" if count == 512 else f" --masks {count}"
    revision = getattr(model.config, "_commit_hash", None)
    at = f", {name} at revision {revision}" if revision and not folder.is_dir() else ""
    return f"dprag prepare-base {name} --out {out.name}{masks}{at}"


def _training_settings(weights: Path) -> dict[str, Any]:
    """The settings that a reader was trained with. Raises CheckpointError for a folder that training did not write."""
    file = weights / CARD
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
        return {**settings, "layer": int(settings["layer"]), "plain_layer": int(settings["plain_layer"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is missing or unreadable; name the folder that `dprag train` wrote") from error


def _fitted_masks(
    model: PreTrainedModel, tokenizer: Any, tokens: MaskTokens, layer: int, steps: int, progress: Callable[[str], None]
) -> Tensor:
    """Optimise the numbered masks of a base without a reader and write them; returns A (M, U), zeros where none can work."""
    if not adds_mlp_output(model):
        return torch.zeros(len(tokens.numbered), model.config.intermediate_size)

    def report(step: int, energy: float) -> None:
        if step % 10 == 0:
            progress(f"mask tokens: step {step} of {steps}, crosstalk energy a row {energy:.2e}")

    embeddings, a = tokens.fit(model, PromptBuilder(tokenizer, tokens.mask_id), layer, steps, report)
    tokens.write(model, embeddings)
    return a


def _write(model: PreTrainedModel, tokenizer: Any, record: PreparedRecord, a: Tensor, scorer: Path | None, out: Path) -> None:
    with replace_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n")
        part_of(folder, MASKS).parent.mkdir()
        save_file({"a": a.half().contiguous().cpu()}, part_of(folder, MASKS))
        if scorer and scorer.is_file():
            shutil.copyfile(scorer, part_of(folder, SCORER_FILE))
