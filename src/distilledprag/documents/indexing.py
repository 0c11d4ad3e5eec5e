"""Files and folders -> documents ready to be stored, and incrementally into a store.

    bytes, text or a file -> PreparedDocument: passages, notes on what could not be read, and the hash of the content
    a folder -> store: what is unchanged is not read again, what is gone is deleted

Documents are stored in batches; a run killed at any moment keeps the finished batches, and the next run goes on from there. Where
a `ReadingPool` is given, files are read in its processes and within its limits, otherwise in this process.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath

from distilledprag.documents.database import READING
from distilledprag.documents.loading import LONGEST, LoadFile, documents_of, load_document, named_notes, printable
from distilledprag.documents.readers import SCANS, VERSION
from distilledprag.documents.reading import ReadingPool
from distilledprag.documents.store import DEFAULT_COLLECTION, DocumentStore, PreparedDocument, checked_collection
from distilledprag.errors import DocumentError, InputError, storage_error
from distilledprag.words import titled

LONGEST_NAME = 255  # characters
BATCH = 32  # documents stored at a time
_PAGE = 1000  # documents listed at a time
_SALT = f"{LONGEST} words, readers {VERSION}\0".encode()
_AS_TEXT = (".md", ".markdown", ".html", ".htm")

OnFile = Callable[[int, int, Path], None]  # files done, files in all, the file done last


@dataclass
class IndexReport:
    """What a run did. failed: (file, why), in each case an older version stays in the store; notes: what could not be read of
    the files that were; copies: (file, the one with the same bytes, which is kept); skipped: files of other types."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    copies: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: int = 0

    def __add__(self, other: IndexReport) -> IndexReport:
        """What both runs did together."""
        return IndexReport(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def index_path(
    store: DocumentStore,
    path: Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    allow_empty: bool = False,
    on_file: OnFile | None = None,
    load: LoadFile = load_document,
    ocr: str | None = None,
) -> IndexReport:
    """Make the store hold what is at `path` now: a file, or a folder with its subfolders.

    Files that were indexed from there before and are gone are deleted from the store. Raises InputError when `path` does
    not exist, and when a folder that had documents before has none at all now (a disk that is not mounted looks like that)
    unless `allow_empty`; DiskFullError, with everything of earlier batches stored. A file that cannot be read is named in the
    report, and the others are indexed. load: how a file is read, such as `ReadingPool.read`; ocr:
    language in which `load` reads scans, if it does: files that may hold some are read again where that was not so before.
    """
    checked_collection(collection)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path (nothing was changed in the store)")
    report = IndexReport()
    root = Path(_source(path))
    before = {
        source: known
        for source, known in store.indexed(collection).items()
        if Path(source) == root or root in Path(source).parents
    }
    files = _files(path, report, bool(before), allow_empty, pictures=ocr is not None)
    batch: list[PreparedDocument] = []

    def store_batch() -> None:
        documents = batch.copy()
        batch.clear()
        ids = store.add(documents, collection)
        _note_copies(store, documents, ids, before, report)

    try:
        for done, file in enumerate(files, start=1):
            prepared = _prepare_if_changed(file, before, report, load, ocr)
            if prepared is not None:
                batch.append(prepared)
            if len(batch) >= BATCH:
                store_batch()
            if on_file:
                on_file(done, len(files), file)
    finally:  # whatever ends the run, what was read is kept
        if batch:
            store_batch()
    present = {_source(file) for file in files}
    gone = [source for source in before if source not in present]
    store.release(gone, collection)
    report.deleted = len(gone)
    if report.changed and not gone:
        store.database.compact()
    return report


def texts_of(store: DocumentStore) -> Iterator[str]:
    """All passages of a store, as they are read."""
    offset = 0
    while some := store.listed(limit=_PAGE, offset=offset, newest_first=False):
        for document in some:
            yield from (titled(passage.title, passage.text) for passage in store.passages(document.id))
        offset += _PAGE


def _note_copies(
    store: DocumentStore,
    documents: list[PreparedDocument],
    ids: list[str],
    before: dict[str, tuple[str, str]],
    report: IndexReport,
) -> None:
    """Count the files that hold the bytes of a document that is stored by another path or name."""
    for document, id in zip(documents, ids, strict=True):
        stored = store.document(id)
        if stored.source != document.source:
            report.copies.append((str(document.source), stored.source or stored.name))
            if document.source in before:
                report.changed -= 1
            else:
                report.added -= 1


def _files(path: Path, report: IndexReport, had_documents: bool, allow_empty: bool, *, pictures: bool) -> list[Path]:
    if not path.is_dir():
        return [path]

    def count(_: Path) -> None:
        report.skipped += 1

    try:
        return documents_of(path, count, pictures=pictures)
    except InputError as error:
        if not had_documents:
            raise
        if allow_empty:
            return []
        raise InputError(
            f"{path} holds no documents any more, but the store has some from there; if they are to be deleted, index again "
            "with --allow-empty"
        ) from error


def _prepare_if_changed(
    file: Path, before: dict[str, tuple[str, str]], report: IndexReport, load: LoadFile, ocr: str | None
) -> PreparedDocument | None:
    known = before.get(_source(file))
    try:
        if known is not None and known[1] == _file_hash(file, ocr):
            report.unchanged += 1
            return None
        prepared = prepare_file(file, load, ocr)
    except (InputError, OSError) as error:
        report.failed.append((file, str(error)))
        return None
    report.notes += named_notes(printable(file), prepared.notes)
    if known is None:
        report.added += 1
    else:
        report.changed += 1
    return prepared


def _source(file: Path) -> str:
    """How the store names a file: its absolute path, as text."""
    return printable(file.resolve())


def content_hash(data: bytes, suffix: str = "", ocr: str | None = None) -> str:
    """SHA-256 (hex) of a document's bytes and of what its passages depend on besides: their length, the readers, and the
    language of OCR where its type may hold scans."""
    return hashlib.sha256(_salt(suffix, ocr) + data).hexdigest()


def _salt(suffix: str, ocr: str | None) -> bytes:
    return _SALT + (f"ocr {ocr}\0".encode() if ocr is not None and suffix.lower() in SCANS else b"")


def _file_hash(file: Path, ocr: str | None) -> str:
    """The `content_hash` of a file of any size."""
    digest = hashlib.sha256(_salt(file.suffix, ocr))
    with file.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def prepare_file(file: Path, load: LoadFile = load_document, ocr: str | None = None) -> PreparedDocument:
    """A file on this machine. ocr: language in which `load` reads scans, if it does.

    Raises InputError as `load_document` does, OSError when the file cannot be opened.
    """
    hash, size = _file_hash(file, ocr), file.stat().st_size  # before it is read: a change meanwhile is found by the next run
    loaded = load(file, LONGEST)
    return PreparedDocument(checked_name(printable(file)), loaded.passages, hash, size, _source(file), loaded.notes)


def prepare_bytes(
    name: str, data: bytes, folder: Path, reading: ReadingPool | None = None, cancelled: threading.Event | None = None
) -> PreparedDocument:
    """An uploaded file. `folder`: where it may lie while it is read (private; readers need a file).

    reading: the processes that read it (None: this one does), until `cancelled` is set. Raises DocumentError for content that
    cannot be read, InputError for a name that is empty or too long, DiskFullError, and ReadingStoppedError.
    """
    name = checked_name(name)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=READING) as temporary:
            file = Path(temporary) / f"document{PurePosixPath(name).suffix.lower()}"
            file.touch(mode=0o600)
            file.write_bytes(data)
            try:
                if reading is None:
                    loaded = load_document(file, LONGEST)
                else:
                    loaded = reading.read(file, LONGEST, scratch=Path(temporary), cancelled=cancelled)
            except DocumentError as error:
                raise DocumentError(str(error).replace(str(file), name)) from None
    except OSError as error:
        raise storage_error(folder, error) from error
    hash = content_hash(data, PurePosixPath(name).suffix, reading.ocr if reading else None)
    return PreparedDocument(name, loaded.passages, hash, len(data), notes=loaded.notes)


def prepare_text(
    name: str, text: str, folder: Path, reading: ReadingPool | None = None, cancelled: threading.Event | None = None
) -> PreparedDocument:
    """Text that has a name: Markdown or HTML if the name ends so, else plain text. Otherwise as `prepare_bytes`."""
    name = checked_name(name)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} holds half a character (a lone surrogate); send whole Unicode text") from None
    if not text.strip():
        raise InputError(f"{name} is empty; give it text")
    readable = name if PurePosixPath(name).suffix.lower() in _AS_TEXT else "document.txt"
    try:
        prepared = prepare_bytes(readable, data, folder, reading, cancelled)
    except DocumentError as error:
        raise DocumentError(str(error).replace(readable, name)) from None
    return replace(prepared, name=name)


def checked_name(name: str) -> str:
    """The name without folders and control characters. Raises InputError when nothing is left, or too much."""
    plain = "".join(character for character in name.replace("\\", "/").rpartition("/")[2] if character.isprintable()).strip()
    if not plain:
        raise InputError("the document has no name; give it one, such as notes.txt")
    if len(plain) > LONGEST_NAME:
        raise InputError(f"the document's name has {len(plain)} characters; use at most {LONGEST_NAME}")
    return plain
