"""`dprag join`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from distilledprag.cli.encode import AdapterPrompt, write_engine_folder, write_peft_folder
from distilledprag.errors import CheckpointError, InputError
from distilledprag.generators.joining import Part, joined_lora, joined_states
from distilledprag.lora.peft_format import STATES_FILE, check_adapter_folder
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG


def run(folders: list[Path], out: Path, as_json: bool, base: str | None) -> None:
    """Raises InputError for fewer than two adapters, CheckpointError for folders that `dprag encode` did not write, and for
    an `out` that holds other files."""
    if len(folders) < 2:
        raise InputError("give two adapters or more to put side by side")
    check_adapter_folder(out)
    parts = [_part(folder) for folder in folders]
    kinds = {type(part.adapter) for part in parts}
    if len(kinds) > 1:
        raise CheckpointError("some of these adapters are for PEFT and some for an engine of ours; encode the documents again")
    prag = DistilledPRAG.from_pretrained(base, say=Console(stderr=True).print)
    lengths = [length for part in parts for length in part.passages]
    if kinds == {StateAdapter}:
        states = joined_states(parts)
        states.base.require(prag.base.identity)
        record = write_engine_folder(prag, states.to_bytes(), lengths, out)
    else:
        record = write_peft_folder(prag, joined_lora(prag.states, parts), lengths, out)
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    Console().print(
        f"{out}: {record['masks']} rows from {len(folders)} adapters, {record['bytes']:,} bytes; --json prints the masked prompt"
    )


def _part(folder: Path) -> Part:
    prompt = AdapterPrompt.read(folder)
    states = folder / STATES_FILE
    adapter = StateAdapter.from_bytes(states.read_bytes()) if states.is_file() else LoraWeights.from_pretrained(folder)
    return Part(adapter, prompt.passages, str(folder))
