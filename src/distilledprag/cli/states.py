"""Passages' states beside a document store: built while indexing, dropped with their documents, read by a gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distilledprag.documents.indexing import texts_of
from distilledprag.documents.store import DocumentStore

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class States:
    """base: the folder of a prepared base; None: the default one. limit: MiB of states that are kept; those used longest ago go
    first."""

    base: str | None
    limit: int

    def build(self, store: DocumentStore, console: Console) -> None:
        """Encode all passages of the store that are not encoded yet, in batches, with a progress bar, and say how much is kept.

        A run that is stopped goes on where it was.
        """
        from distilledprag.base.default import default_base
        from distilledprag.base.prepared import encoder_folder
        from distilledprag.generators.kept_states import KeptStates
        from distilledprag.pipeline import DistilledPRAG

        base = Path(self.base or default_base(console.print)).expanduser()
        encoder = encoder_folder(base)  # all of the base that is needed here
        prag = DistilledPRAG.from_pretrained(encoder if encoder.is_dir() else base, say=console.print)
        prag.states.kept = kept = KeptStates(store.reading_folder, self.limit * 2**20)
        try:
            with Progress(*COLUMNS, console=console, transient=True) as progress:
                task = progress.add_task("encoding passages", total=None)
                made = prag.states.keep(texts_of(store), lambda done, total: progress.update(task, completed=done, total=total))
            held = kept.kept()
            console.print(f"{made} passages encoded; the states of {held.passages} are kept, {held.bytes / 2**20:,.1f} MiB")
        finally:
            kept.close()


def drop_others(store: DocumentStore) -> None:
    """Delete the states of passages that the store does not hold any more, such as those of deleted documents."""
    from distilledprag.generators.kept_states import FILE, KeptStates

    if (store.reading_folder / FILE).is_file():
        kept = KeptStates(store.reading_folder)
        try:
            kept.keep_only(texts_of(store))
        finally:
            kept.close()
