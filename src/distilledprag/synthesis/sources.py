"""What questions are written about: documents from files and collections, each alone and paired with others.

Text files (.txt, .md, .html, .pdf, .docx) become one document per passage. A row of .jsonl, .json, .parquet or .tsv (DPR's
`psgs_w100.tsv`: columns id, text, title) is one document and is never cut. Collections are read as streams, so that a sample
of 21 million rows needs memory for the sample only.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distilledprag.documents.loading import LoadFile, load_document, named_notes, printable
from distilledprag.documents.readers import readable
from distilledprag.documents.readers.text import TEXT_KEYS, read_json, title_and_text
from distilledprag.errors import ConfigError, InputError
from distilledprag.json_lines import json_rows, text_lines

LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072
BATCH_ROWS = 1024  # Parquet rows decoded at a time
PARTNER_DRAWS = 20  # attempts to find a partner that the document has not been paired with yet

Kind = Literal["single", "cross"]


@dataclass(frozen=True)
class Document:
    """One text to ask about. The title is used by the checks only: it is neither asked about nor trained on."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class DocumentSample:
    """documents: distinct, in reading order; read: how many there were in all; skipped: how many are missing, by reason; failed:
    files that could not be read (to their end), each with the reason; notes: what could not be read of others."""

    documents: list[Document]
    read: int
    skipped: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_documents(
    paths: list[Path],
    *,
    limit: int | None = None,
    seed: int = 0,
    passage_words: int = 100,
    min_words: int = 10,
    titles: bool = False,
    on_file: Callable[[Path], None] | None = None,
    load: LoadFile = load_document,
    pictures: bool = False,
) -> DocumentSample:
    """The documents of files and folders; with `limit`, a seeded uniform sample of that many.

    passage_words: longest passage cut from a text file (DPR's passages have 100 words); min_words: shorter documents are left
    out; titles: put a document's title before its text, so that it is asked about and trained on; on_file: called after each;
    load: how a text file is read, such as `ReadingPool.read`; pictures: it reads these too, by OCR.

    A file that cannot be read, or has a row that is none, is named in `failed`; what was read of it before is kept, and the
    others are read. Raises InputError (missing path, no document at all) and ConfigError (limit).
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"{limit} documents cannot be sampled; give at least 1")
    rng = random.Random(f"documents/{seed}")
    kept: list[tuple[int, Document]] = []
    texts: set[str] = set()
    skipped: Counter[str] = Counter()
    failed: list[str] = []
    notes: list[str] = []
    eligible = number = 0
    for file in _files(paths, pictures):
        try:
            for document in _documents(file, passage_words, load, notes):
                number += 1
                if titles and document.title:
                    document = Document(f"{document.title}: {document.text}")
                if len(document.text.split()) < min_words:
                    skipped[f"fewer than {min_words} words"] += 1
                elif document.text in texts:
                    skipped["duplicate"] += 1
                else:
                    eligible += 1
                    _sample(kept, texts, (number, document), eligible, limit, rng)
        except InputError as error:
            failed.append(str(error))
        if on_file:
            on_file(file)
    if not kept:
        reason = "; ".join(failed) or f"no document has at least {min_words} words; see --min-words"
        raise InputError(f"{', '.join(map(str, paths))}: {reason}")
    documents = [document for _, document in sorted(kept, key=lambda pair: pair[0])]
    return DocumentSample(documents, number, dict(skipped), failed, notes)


@dataclass(frozen=True)
class Item:
    """The documents that one group of questions is about: one for `single`, two for `cross`."""

    kind: Kind
    documents: tuple[Document, ...]

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]


def plan_items(documents: Sequence[Document], partners: int, seed: int) -> list[Item]:
    """Each document alone and with `partners` random others; no two documents are paired twice (paper, "QA synthesis").

    The paper has about 5 cross-document questions per document, which is one partner. The same arguments give the same items.
    With few documents there are fewer pairs than asked for.
    """
    rng = random.Random(f"partners/{seed}")
    paired: set[frozenset[int]] = set()
    items: list[Item] = []
    for index, document in enumerate(documents):
        items.append(Item("single", (document,)))
        for _ in range(partners):
            other = _partner(index, len(documents), paired, rng)
            if other is not None:
                paired.add(frozenset((index, other)))
                items.append(Item("cross", (document, documents[other])))
    return items


def _partner(index: int, count: int, paired: set[frozenset[int]], rng: random.Random) -> int | None:
    for _ in range(PARTNER_DRAWS if count > 1 else 0):
        other = rng.randrange(count - 1)
        other += other >= index
        if frozenset((index, other)) not in paired:
            return other
    return None


def _sample(
    kept: list[tuple[int, Document]],
    texts: set[str],
    new: tuple[int, Document],
    eligible: int,
    limit: int | None,
    rng: random.Random,
) -> None:
    """Reservoir sampling: the n-th eligible document takes a random place with probability limit / n."""
    if limit is None or len(kept) < limit:
        kept.append(new)
    elif (place := rng.randrange(eligible)) < limit:
        texts.remove(kept[place][1].text)
        kept[place] = new
    else:
        return
    texts.add(new[1].text)


def _files(paths: list[Path], pictures: bool) -> list[Path]:
    """The files named and those of known types in the folders named, each once."""
    if not paths:
        raise InputError("there are no documents; name files or folders with --docs")
    types = readable(pictures)
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
            known = [p for p in inside if _kind(p) in types or _kind(p) in COLLECTIONS]
            if not known:
                kinds = ", ".join(dict.fromkeys([*types, *COLLECTIONS]))
                raise InputError(f"{path} holds no readable documents; put {kinds} files there")
            files += known
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path} does not exist; check the path")
    return list(dict.fromkeys(file.resolve() for file in files))


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "~$")) for part in path.parts)


def _kind(file: Path) -> str:
    """The suffix, without `.gz`."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _documents(file: Path, passage_words: int, load: LoadFile, notes: list[str]) -> Iterator[Document]:
    """Raises InputError, naming the file (and row), and nothing else."""
    reader = COLLECTIONS.get(_kind(file))
    try:
        if reader is not None:
            yield from reader(file)
            return
        loaded = load(file, passage_words)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); check its permissions") from error
    except Exception as error:  # a damaged file can break its library anywhere
        raise InputError(f"{file} cannot be read ({type(error).__name__}: {error}); it may be damaged, copy it again") from error
    notes += named_notes(printable(file), loaded.notes)
    for passage in loaded.passages:
        yield Document(passage.text, passage.title)


def _document(row: Any, place: str) -> Document:
    """A record `{text | contents | passage, title?}` as a document."""
    title, text = title_and_text(row, place)
    return Document(text, title)


def _jsonl(file: Path) -> Iterator[Document]:
    for number, row in json_rows(file):
        yield _document(row, f"{file}, line {number}")


def _json(file: Path) -> Iterator[Document]:
    for block in read_json(file).blocks:
        yield Document(block.text, block.title)


def _tsv(file: Path) -> Iterator[Document]:
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader((line for _, line in text_lines(file)), delimiter="\t")
    try:
        columns = next(rows, [])
        if not set(columns) & set(TEXT_KEYS):
            raise InputError(f"{file} must begin with a line of column names, `text` among them, such as: id, text, title")
        for row in rows:
            if len(row) != len(columns):
                raise InputError(f"{file}, line {rows.line_num} has {len(row)} columns instead of {len(columns)}; correct it")
            yield _document(dict(zip(columns, row, strict=True)), f"{file}, line {rows.line_num}")
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num} is not tab-separated text ({error}); correct it") from error


def _parquet(file: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{file} is Parquet: pip install 'distilledprag[parquet]', or convert it to .jsonl") from error
    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [name for name in table.schema_arrow.names if name in (*TEXT_KEYS, "title")]
        number = 0
        for batch in table.iter_batches(BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _document(row, f"{file}, row {number}")
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise InputError(f"{file} is not a readable Parquet file ({error}); write or copy it again") from error


COLLECTIONS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".tsv": _tsv,
}
