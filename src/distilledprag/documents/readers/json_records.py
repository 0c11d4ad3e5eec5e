"""Records in JSON: one object per line (.jsonl) or a list of objects (.json), each `{text | contents | passage, title?}`."""

from __future__ import annotations

import json
from pathlib import Path

from distilledprag.documents.passages import Block, clean
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError
from distilledprag.json_lines import json_of

TEXT_KEYS = ("text", "contents", "passage")


def read_jsonl(file: Path) -> ReadDocument:
    """One record per line; blank lines are skipped. Raises InputError naming the line."""
    text, notes = decode(file.read_bytes(), str(file))
    blocks: list[Block] = []
    # Only "\n" ends a line here: JSON strings may hold the other characters at which str.splitlines() cuts.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            blocks.append(_block(json_of(line, place), place))
    return ReadDocument(tuple(blocks), notes)


def read_json(file: Path) -> ReadDocument:
    """A list of records. Raises DocumentError naming the entry."""
    text, notes = decode(file.read_bytes(), str(file))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{file} is not JSON ({error}); correct it, or name it .jsonl if each line is an object") from error
    if not isinstance(rows, list):
        raise DocumentError(f'{file} holds no list; write a list of objects like {{"title": ..., "text": ...}}')
    return ReadDocument(tuple(_block(row, f"{file}, entry {number}") for number, row in enumerate(rows, start=1)), notes)


def title_and_text(row: object, place: str) -> tuple[str, str]:
    """Title and text of a record, cleaned; either may be empty. Raises DocumentError naming `place` for what is not a record."""
    if not isinstance(row, dict):
        raise DocumentError(f'{place} is not an object; write {{"text": ...}}')
    text = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)
    if text is None:
        raise DocumentError(f"{place} has no text; give it one of the keys {', '.join(TEXT_KEYS)} with a string")
    title = row.get("title")
    return clean(title) if isinstance(title, str) else "", clean(text)


def _block(row: object, place: str) -> Block:
    title, text = title_and_text(row, place)
    if not text:
        raise DocumentError(f"{place} has an empty text; fill it or remove it")
    return Block(text, title)
