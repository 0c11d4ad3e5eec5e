"""`dprag index`: put files and folders into a document store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from distilledprag.cli.ask import check_base
from distilledprag.cli.search import BY_WORDS, Search
from distilledprag.cli.states import COLUMNS, States, drop_others
from distilledprag.documents.indexing import IndexReport, index_path
from distilledprag.documents.limits import Limits
from distilledprag.documents.reading import ReadingPool
from distilledprag.errors import InputError


def run(
    paths: Sequence[Path],
    place: str,
    collection: str,
    allow_empty: bool,
    limits: str | None = None,
    search: Search = BY_WORDS,
    states: States | None = None,
) -> None:
    """Raises InputError at the end when files could not be read; all others are in the store then. states: how passages are
    encoded ahead; None: they are not."""
    bounds = Limits.parse(limits)
    console = Console(stderr=True, highlight=False)
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path (nothing was changed in the store)")
    if states is not None:
        check_base(states.base)
    store = search.store(place)
    try:
        with Progress(*COLUMNS, console=console, transient=True) as progress, ReadingPool(bounds) as reading:
            task = progress.add_task("indexing", total=None)

            def tell(done: int, total: int, _: Path) -> None:
                progress.update(task, completed=done, total=total)

            report = IndexReport()
            for path in paths:
                report += index_path(store, path, collection, allow_empty=allow_empty, on_file=tell, load=reading.read)
        show(console, report)
        if (vectors := search.vectors(store, console.print)) is not None:
            with console.status("reading the passages' meaning"):
                vectors.update()
        if report.deleted or report.changed:
            drop_others(store)
        if states is not None:
            states.build(store, console)
        print(f"{store.count(collection)} documents in collection {collection}")
    finally:
        store.close()
    if report.failed:
        raise InputError(
            f"{len(report.failed)} of the files could not be read (named above); mend or remove them and index again. All others "
            "are in the store"
        )


def show(console: Console, report: IndexReport) -> None:
    """Say what was done, which files could not be read, and what of others could not."""
    counts = {"added": report.added, "changed": report.changed, "unchanged": report.unchanged, "deleted": report.deleted}
    skipped = f"; {report.skipped} files of other types passed over" if report.skipped else ""
    console.print(", ".join(f"{count} {name}" for name, count in counts.items()) + skipped)
    for file, other in report.copies:
        console.print(f"[yellow]kept once:[/yellow] {escape(file)} holds the same bytes as {escape(other)}")
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    for _, reason in report.failed:
        console.print(f"[yellow]not read:[/yellow] {escape(reason)}", soft_wrap=True)
