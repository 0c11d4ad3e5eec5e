"""`dprag encode`: write the adapter of documents into a folder, and print the masked prompt that goes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from distilledprag.cli.ask import load_with_progress
from distilledprag.errors import ConfigError, InputError
from distilledprag.files import replace_folder

PLACE = "{question}"


def run(
    files: list[Path],
    out: Path,
    target: str,
    question: str | None,
    rows: float | None,
    as_json: bool,
    base: str | None,
    generator: str | None = None,
    limits: str | None = None,
) -> None:
    """Raises ConfigError for options that do not go together, InputError when a file cannot be read: an adapter that silently
    lacks one would be taken for whole."""
    if target not in ("peft", "engine"):
        raise ConfigError(f"--for must be peft or engine, not {target!r}")
    if (question is None) != (rows is None):
        raise ConfigError("--rows needs --question, and the other way round: the question decides which rows are kept")
    console = Console(stderr=True)
    loaded = load_with_progress(files, console, limits)
    if loaded.failed:
        raise InputError(f"{len(loaded.failed)} of {loaded.files} files could not be read (named above); no adapter was made")
    passages = [passage.text for passage in loaded.passages]
    from distilledprag.generators.sentence_choice import chosen_sentences
    from distilledprag.pipeline import DistilledPRAG

    prag = DistilledPRAG.from_pretrained(base, generator=generator, say=console.print)
    if question is not None and rows is not None:
        passages = chosen_sentences(question, passages, rows, lambda text: len(prag.prompts.document_ids(text)))
    compact = prag.encode_states(passages).to_bytes() if prag.generator is None or target == "engine" else b""
    if target == "peft":
        prag.encode(passages).save_pretrained(out)
        size = sum(file.stat().st_size for file in out.iterdir() if file.suffix == ".safetensors")
        ids = prag.peft_prompt(PLACE, passages)
    else:
        with replace_folder(out) as folder:
            (folder / "states.safetensors").write_bytes(compact)
        size, ids = len(compact), prag.prompts.build(PLACE, passages).masked_ids
    masks = sum(prag.prompts.context(passages).is_document)
    record: dict[str, Any] = {
        "prompt": prag.base.tokenizer.decode(ids, skip_special_tokens=False),
        "masks": masks,
        "tokens": len(ids),
        "bytes": size,
        "compact_bytes": len(compact) or size,
    }
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    Console().print(
        f"{out}: {masks} rows from {len(passages)} passages of {len(files)} file(s), {size:,} bytes "
        f"({len(compact) or size:,} in compact form); --json prints the masked prompt that goes with it"
    )
