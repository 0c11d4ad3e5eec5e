"""Files and folders -> documents ready to be stored, and incrementally into a store.

    bytes, text or a file -> PreparedDocument: passages, and the hash that tells whether the content changed
    a folder -> store: what is unchanged is not read again, what is gone is deleted

Documents are stored in batches; a run killed at any moment keeps the finished batches, and the next run goes on from there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from distilledprag.documents.loading import documents_of, load_file
from distilledprag.documents.store import DEFAULT_COLLECTION, READING, DocumentStore, PreparedDocument, checked_collection
from distilledprag.errors import InputError, storage_error

PASSAGE_WORDS = 80  # longest passage
LONGEST_NAME = 255  # characters
BATCH = 32  # documents stored at a time
_AS_TEXT = (".md", ".markdown", ".html", ".htm")

OnFile = Callable[[int, int, Path], None]  # files done, files in all, the file done last


@dataclass
class IndexReport:
    """What a run did. failed: (file, why), in each case an older version stays in the store; skipped: other types."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    skipped: int = 0


def index_path(
    store: DocumentStore,
    path: Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    allow_empty: bool = False,
    on_file: OnFile | None = None,
) -> IndexReport:
    """Make the store hold what is at `path` now: a file, or a folder with its subfolders.

    Files that were indexed from there before and are gone are deleted from the store. Raises InputError when `path` does
    not exist, and when a folder that had documents before has none at all now (a disk that is not mounted looks like that)
    unless `allow_empty`; DiskFullError, with everything of earlier batches stored.
    """
    checked_collection(collection)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path (nothing was changed in the store)")
    report = IndexReport()
    root = path.resolve()
    before = {
        source: known
        for source, known in store.indexed(collection).items()
        if Path(source) == root or root in Path(source).parents
    }
    files = _files(path, report, bool(before), allow_empty)
    batch: list[PreparedDocument] = []
    for done, file in enumerate(files, start=1):
        prepared = _prepare_if_changed(file, before, report)
        if prepared is not None:
            batch.append(prepared)
        if batch and (len(batch) >= BATCH or done == len(files)):
            store.add(batch, collection)
            batch = []
        if on_file:
            on_file(done, len(files), file)
    present = {str(file.resolve()) for file in files}
    gone = [known[0] for source, known in before.items() if source not in present]
    store.delete(gone)
    report.deleted = len(gone)
    if report.changed and not gone:
        store.database.compact()
    return report


def _files(path: Path, report: IndexReport, had_documents: bool, allow_empty: bool) -> list[Path]:
    if not path.is_dir():
        return [path]

    def count(_: Path) -> None:
        report.skipped += 1

    try:
        return documents_of(path, count)
    except InputError as error:
        if not had_documents:
            raise
        if allow_empty:
            return []
        raise InputError(
            f"{path} holds no documents any more, but the store has some from there; if they are to be deleted, index again "
            "with --allow-empty"
        ) from error


def _prepare_if_changed(file: Path, before: dict[str, tuple[str, str]], report: IndexReport) -> PreparedDocument | None:
    known = before.get(str(file.resolve()))
    try:
        if known is not None and known[1] == content_hash(file.read_bytes()):
            report.unchanged += 1
            return None
        prepared = prepare_file(file)
    except (InputError, OSError) as error:
        report.failed.append((file, str(error)))
        return None
    if known is None:
        report.added += 1
    else:
        report.changed += 1
    return prepared


def content_hash(data: bytes) -> str:
    """SHA-256 (hex) of a document's bytes and of the setting that its passages depend on."""
    return hashlib.sha256(f"{PASSAGE_WORDS} words\0".encode() + data).hexdigest()


def prepare_file(file: Path) -> PreparedDocument:
    """A file on this machine. Raises InputError as `load_file` does."""
    source = file.resolve()
    return PreparedDocument(
        checked_name(file.name), load_file(file, PASSAGE_WORDS), content_hash(file.read_bytes()), file.stat().st_size, str(source)
    )


def prepare_bytes(name: str, data: bytes, folder: Path) -> PreparedDocument:
    """An uploaded file. `folder`: where it may lie while it is read (private; readers need a file).

    Raises InputError for content that cannot be read and for a name that is empty or too long, DiskFullError.
    """
    name = checked_name(name)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=READING) as temporary:
            file = Path(temporary) / f"document{PurePosixPath(name).suffix.lower()}"
            file.touch(mode=0o600)
            file.write_bytes(data)
            try:
                passages = load_file(file, PASSAGE_WORDS)
            except InputError as error:
                raise InputError(str(error).replace(str(file), name)) from None
    except OSError as error:
        raise storage_error(folder, error) from error
    return PreparedDocument(name, passages, content_hash(data), len(data))


def prepare_text(name: str, text: str, folder: Path) -> PreparedDocument:
    """Text that has a name: Markdown or HTML if the name ends so, else plain text."""
    name = checked_name(name)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} holds half a character (a lone surrogate); send whole Unicode text") from None
    if not text.strip():
        raise InputError(f"{name} is empty; give it text")
    readable = name if PurePosixPath(name).suffix.lower() in _AS_TEXT else "document.txt"
    try:
        prepared = prepare_bytes(readable, data, folder)
    except InputError as error:
        raise InputError(str(error).replace(readable, name)) from None
    return PreparedDocument(name, prepared.passages, prepared.hash, prepared.size)


def checked_name(name: str) -> str:
    """The name without folders and control characters. Raises InputError when nothing is left, or too much."""
    plain = "".join(character for character in name.replace("\\", "/").rpartition("/")[2] if character.isprintable()).strip()
    if not plain:
        raise InputError("the document has no name; give it one, such as notes.txt")
    if len(plain) > LONGEST_NAME:
        raise InputError(f"the document's name has {len(plain)} characters; use at most {LONGEST_NAME}")
    return plain
