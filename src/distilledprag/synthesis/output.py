"""Finished outcomes -> the file that `dprag train` reads: one row per pair, as .jsonl or .parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically
from distilledprag.synthesis.run import Outcome

FORMATS = (".jsonl", ".parquet")


def check_output(path: Path) -> None:
    """Raise ConfigError before any request if `write_rows` could not write this file."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--out {path} must end in {' or '.join(FORMATS)}")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file in it")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError("Parquet needs pyarrow: pip install 'distilledprag[parquet]', or write .jsonl") from error


def rows_of(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """`{documents: [str], question, answer, full_answer, kind: single|cross}` for every pair."""
    for outcome in outcomes:
        for pair in outcome.pairs:
            yield {
                "documents": outcome.item.texts,
                "question": pair.question,
                "answer": pair.answer,
                "full_answer": pair.full_answer,
                "kind": outcome.item.kind,
            }


def write_rows(outcomes: Sequence[Outcome], path: Path) -> int:
    """Write all pairs, whole or not at all; the number of rows. The file is built in memory (the paper's: about 400 MB)."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows_of(outcomes)]
        write_atomically(path, b"".join(lines))
        return len(lines)
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema({
        "documents": pyarrow.list_(text), "question": text, "answer": text, "full_answer": text, "kind": text
    })  # fmt: skip
    table = pyarrow.Table.from_pylist(list(rows_of(outcomes)), schema=schema)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
    return int(table.num_rows)
