"""Folders and files -> store, incrementally: what is unchanged is not read again, what is gone is deleted.

Documents are stored in batches; a run killed at any moment keeps the finished batches, and the next run goes on from there.
Knows nothing of the screen: progress is told to a callback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distilledprag.documents.loading import documents_of
from distilledprag.errors import InputError
from distilledprag.gateway.store.documents import DEFAULT_COLLECTION, DocumentStore, checked_collection
from distilledprag.gateway.store.preparing import PreparedDocument, content_hash, prepare_file

BATCH = 32  # documents stored at a time

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
