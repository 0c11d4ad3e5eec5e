"""`dprag encode`: write the adapter of documents into a folder, and print the masked prompt that goes with it.
`dprag join`: put adapters of such folders side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distilledprag.cli.ask import check_base, load_with_progress
from distilledprag.documents.reading import USUAL, Reading
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.files import replace_folder, write_atomically
from distilledprag.words import titled

if TYPE_CHECKING:
    from distilledprag.generators.state import Part
    from distilledprag.lora.weights import LoraWeights
    from distilledprag.pipeline import DistilledPRAG

PLACE = "{question}"


@dataclass(frozen=True)
class AdapterPrompt:
    """What is written beside an adapter: the masked prompt that goes with it, and the tokens of each of its passages."""

    prompt: str
    passages: list[int]

    def write(self, folder: Path) -> None:
        from distilledprag.lora.peft_format import PROMPT_FILE

        write_atomically(folder / PROMPT_FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> AdapterPrompt:
        """Raises CheckpointError for a folder without it."""
        from distilledprag.lora.peft_format import PROMPT_FILE

        try:
            fields = json.loads((folder / PROMPT_FILE).read_text(encoding="utf-8"))
            found = cls(str(fields["prompt"]), fields["passages"])
            if not all(type(length) is int and length >= 0 for length in found.passages):
                raise ValueError
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} has no usable {PROMPT_FILE}; give folders that `dprag encode` wrote") from error


def run(
    files: list[Path],
    out: Path,
    target: str,
    question: str | None,
    rows: float | None,
    as_json: bool,
    base: str | None,
    generator: str | None = None,
    reading: Reading = USUAL,
) -> None:
    """Raises ConfigError for options that do not go together, CheckpointError for an `out` that holds other files, InputError
    when a file cannot be read: an adapter that silently lacks one would be taken for whole."""
    if target not in ("peft", "engine"):
        raise ConfigError(f"--for must be peft or engine, not {target!r}")
    if question is None and rows is not None:
        raise ConfigError("--rows needs --question: the question decides which rows are kept")
    check_base(base, generator)
    from distilledprag.lora.peft_format import check_adapter_folder

    check_adapter_folder(out)  # before the work
    console = Console(stderr=True)
    loaded = load_with_progress(files, console, reading)
    if loaded.failed:
        raise InputError(f"{len(loaded.failed)} of {loaded.files} files could not be read (named above); no adapter was made")
    whole = passages = [titled(passage.title, passage.text) for passage in loaded.passages]
    from distilledprag.pipeline import DistilledPRAG

    prag = DistilledPRAG.from_pretrained(base, generator=generator, say=console.print)
    count = prag.prompts.document_length
    total = sum(map(count, passages))
    if question is not None and rows is not None:
        passages = prag.choice.chosen(question, passages, rows)
    elif question is not None:
        passages = prag.choice.fitting(question, passages, prag.capacity(target == "peft"))
    lengths = [count(text) for text in passages]
    notes = []
    if sum(lengths) < total:
        notes.append(f"{total - sum(lengths)} of the documents' {total} tokens were left out; the answer may be among them")
    if target == "peft":
        record = write_peft_folder(prag, prag.encode(passages, whole), lengths, out)
        if prag.generator is None:
            record["compact_bytes"] = len(prag.encode_states(passages, whole).to_bytes())
    else:
        record = write_engine_folder(prag, prag.encode_states(passages, whole).to_bytes(), lengths, out)
    record["notes"] = notes
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    Console().print(
        f"{out}: {record['masks']} rows from {len(passages)} passages of {len(files)} file(s), {record['bytes']:,} bytes "
        f"({record['compact_bytes']:,} in compact form); --json prints the masked prompt that goes with it"
    )
    for note in notes:
        Console().print(f"note: {note}")


def run_in_bulk(
    files: list[str],
    out: str,
    base: str | None,
    reading: Reading,
    as_json: bool,
    workers: int,
    shard_passages: int,
    column: str,
) -> None:
    """Encode every passage of files and of Parquet for itself, into `out`. Raises InputError at the end when a file could not be
    read; all others are encoded then."""
    from distilledprag.base.default import default_base
    from distilledprag.bulk_encoding import encode_all

    check_base(base)
    console = Console(stderr=True)
    parquet = [file for file in files if file.endswith(".parquet")]
    others = [Path(file) for file in files if not file.endswith(".parquet")]
    loaded = load_with_progress(others, console, reading) if others else None
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("passages encoded", total=None)
        manifest = encode_all(
            base or str(default_base(console.print)),
            out,
            texts=[titled(passage.title, passage.text) for passage in loaded.passages] if loaded else (),
            parquet=parquet,
            column=column,
            workers=workers,
            shard_passages=shard_passages,
            say=lambda passages: progress.advance(task, passages),
        )
    told = {name: manifest[name] for name in ("passages", "rows", "bytes")} | {"shards": len(manifest["shards"])}
    if as_json:
        print(json.dumps(told))
    else:
        print("{passages} passages, {rows} rows, {bytes:,} bytes in {shards} shards".format(**told))
    if loaded and loaded.failed:
        raise InputError(f"{len(loaded.failed)} of {loaded.files} files could not be read (named above); the others are encoded")


def write_peft_folder(prag: DistilledPRAG, adapter: LoraWeights, lengths: Sequence[int], out: Path) -> dict[str, Any]:
    """The adapter with its prompt, and what is told about it."""
    masked = [*prag.prompts.masked_context(lengths), *prag.prompts.question(PLACE)]
    ids = prag.states.numbered(masked) if prag.generator is None else masked
    adapter.save_pretrained(out)
    size = sum(file.stat().st_size for file in out.iterdir() if file.suffix == ".safetensors")
    return _told(prag, ids, lengths, size, out)


def write_engine_folder(prag: DistilledPRAG, states: bytes, lengths: Sequence[int], out: Path) -> dict[str, Any]:
    """The compact adapter with its prompt, and what is told about it."""
    from distilledprag.lora.peft_format import STATES_FILE, check_adapter_folder

    check_adapter_folder(out)
    ids = [*prag.prompts.masked_context(lengths), *prag.prompts.question(PLACE)]
    with replace_folder(out) as folder:
        (folder / STATES_FILE).write_bytes(states)
    return _told(prag, ids, lengths, len(states), out)


def _told(prag: DistilledPRAG, ids: list[int], lengths: Sequence[int], size: int, out: Path) -> dict[str, Any]:
    prompt = prag.base.tokenizer.decode(ids, skip_special_tokens=False)
    AdapterPrompt(prompt, list(lengths)).write(out)
    return {"prompt": prompt, "masks": sum(lengths), "tokens": len(ids), "bytes": size, "compact_bytes": size}


# --- join


def join(folders: list[Path], out: Path, as_json: bool, base: str | None) -> None:
    """`dprag join`: the adapters of `folders` side by side, in a folder of its own.

    Raises InputError for fewer than two adapters, CheckpointError for folders that `dprag encode` did not write, and for an
    `out` that holds other files.
    """
    if len(folders) < 2:
        raise InputError("give two adapters or more to put side by side")
    from distilledprag.generators.state import joined_lora, joined_states
    from distilledprag.lora.peft_format import check_adapter_folder
    from distilledprag.lora.states import StateAdapter
    from distilledprag.pipeline import DistilledPRAG

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
    from distilledprag.generators.state import Part
    from distilledprag.lora.peft_format import STATES_FILE
    from distilledprag.lora.states import StateAdapter
    from distilledprag.lora.weights import LoraWeights

    prompt = AdapterPrompt.read(folder)
    states = folder / STATES_FILE
    adapter = StateAdapter.from_bytes(states.read_bytes()) if states.is_file() else LoraWeights.from_pretrained(folder)
    return Part(adapter, prompt.passages, str(folder))
