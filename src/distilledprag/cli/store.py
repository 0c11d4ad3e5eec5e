"""`dprag index`, and the options of every command that searches passages or keeps a document store: --retriever, --encoder and
--language (`Search`), --store and --collection (`Stored`), --encode, --base and --states-limit (`States`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distilledprag.base.prepared import prepared_record
from distilledprag.documents.database import Database, without_password
from distilledprag.documents.indexing import IndexReport, index_path, texts_of
from distilledprag.documents.passages import Passage
from distilledprag.documents.reading import USUAL, Reading
from distilledprag.documents.store import DEFAULT_COLLECTION, DocumentStore, checked_collection, word_rule
from distilledprag.errors import ConfigError, InputError
from distilledprag.retrieval.bm25 import BM25Retriever, Finder
from distilledprag.retrieval.dense import (
    DenseRetriever,
    HybridRetriever,
    SentenceEncoder,
    StoreDenseRetriever,
    checked_kind,
    encoders_of,
    memory_retriever,
    store_finder,
)
from distilledprag.words import PLAIN, WordRule

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class Search:
    """retriever: bm25, dense or hybrid. encoder: a folder or hub id; None: the default one. language: whose word stems are
    searched; None: words as they are, or what a store was made with. Raises ConfigError for a retriever or language that
    does not exist."""

    retriever: str = "bm25"
    encoder: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        checked_kind(self.retriever)
        self.rule()

    def rule(self) -> WordRule | None:
        """How words are cut; None where no language was named."""
        return None if self.language is None else WordRule.of_language(self.language)

    def over(self, passages: Sequence[Passage], say: Callable[[str], None]) -> BM25Retriever | DenseRetriever | HybridRetriever:
        """A retriever over passages in memory."""
        return memory_retriever(checked_kind(self.retriever), passages, self._encoder(say), self.rule() or PLAIN)

    def store(self, place: str) -> DocumentStore:
        """The store, searched by the language's words from now on if one was named."""
        return DocumentStore(place, self.rule())

    def finder(self, store: DocumentStore, say: Callable[[str], None]) -> Callable[[str], Finder]:
        """What finds the passages of a store's collection, by its name."""
        return store_finder(checked_kind(self.retriever), store.database, self._encoder(say))

    def vectors(self, store: DocumentStore, say: Callable[[str], None]) -> StoreDenseRetriever | None:
        """What computes the vectors of a store's passages; None where they are found by words alone."""
        encoder = self._encoder(say)
        return None if encoder is None else StoreDenseRetriever(store.database, encoder)

    def arguments(self) -> list[str]:
        """These options for another command."""
        named = {"--encoder": self.encoder, "--language": self.language}
        return ["--retriever", self.retriever, *(part for name, value in named.items() if value for part in (name, value))]

    @contextlib.contextmanager
    def asked(self, stored: Stored, say: Callable[[str], None]) -> Iterator[tuple[DocumentStore, Finder]]:
        """A store that is there, and what finds the passages of its collection, as a gateway on this store with these options
        does. Unlike a gateway it reads no passage anew, but for the vectors of those that came since the store was indexed.

        Raises StoreError where there is no store; InputError for a collection that is not there, and for a store without
        documents; ConfigError where the store was indexed by the words of another language or by another encoder.
        """
        place = without_password(stored.place)
        checked_collection(stored.collection)
        store = DocumentStore(stored.place, make=False)
        try:
            held = store.collections()
            if not held:
                raise InputError(f"the store {place} holds no documents; put some in: dprag index PATH --store {place}")
            if stored.collection not in held:
                others = ", ".join(f"{name} ({count})" for name, count in held.items())
                raise InputError(
                    f"the store {place} has no collection {stored.collection}; it has {others}; name one with --collection"
                )
            self._check_words(store.database, place)
            encoder = None if self.retriever == "bm25" else self._encoder_of(store.database, place, say)
            yield store, store_finder(checked_kind(self.retriever), store.database, encoder)(stored.collection)
        finally:
            store.close()

    def _check_words(self, database: Database, place: str) -> None:
        with database.reading() as connection:
            known = word_rule(connection)
        if self.rule() not in (None, known):
            words = f"by the word stems of {known.stem}" if known.stem else "by words as they are"
            raise ConfigError(
                f"the store {place} is searched {words}; leave out --language, or change that for all who use the store: "
                f'dprag index PATH --store {place} --language "{self.language}"'
            )

    def _encoder_of(self, database: Database, place: str, say: Callable[[str], None]) -> SentenceEncoder:
        """The encoder, if the store was indexed by it: reading a whole store anew is nothing that a question should do."""
        named = f" --encoder {self.encoder}" if self.encoder else ""
        remedy = f"dprag index PATH --store {place} --retriever {self.retriever}{named}"
        known = encoders_of(database)
        if not known:
            raise ConfigError(
                f"the store {place} is indexed by words only; use --retriever bm25, or index it by meaning: {remedy}"
            )
        encoder = SentenceEncoder(self.encoder, say)
        if encoder.identity not in known:
            raise ConfigError(
                f"the store {place} is indexed by another encoder than {self.encoder or 'the default one'}; name that one with "
                f"--encoder, or index it again by this one: {remedy}"
            )
        return encoder

    def _encoder(self, say: Callable[[str], None]) -> SentenceEncoder | None:
        return None if self.retriever == "bm25" else SentenceEncoder(self.encoder, say)


BY_WORDS = Search()


@dataclass(frozen=True)
class Stored:
    """A collection of a document store: its place is a folder or an address."""

    place: str
    collection: str = DEFAULT_COLLECTION


@dataclass(frozen=True)
class States:
    """Passages' states beside a document store: built while indexing, dropped with their documents, read by a gateway.

    base: the folder of a prepared base; None: the default one. limit: MiB of states that are kept; those used longest ago go
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


def index(
    paths: Sequence[Path],
    place: str,
    collection: str,
    allow_empty: bool,
    files: Reading = USUAL,
    search: Search = BY_WORDS,
    states: States | None = None,
) -> None:
    """`dprag index`: put files and folders into a document store.

    Raises InputError at the end when files could not be read; all others are in the store then. states: how passages are
    encoded ahead; None: they are not. files: how files are read."""
    console = Console(stderr=True, highlight=False)
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path (nothing was changed in the store)")
    if states is not None and states.base is not None:
        prepared_record(Path(states.base).expanduser())  # before the files are read
    store = search.store(place)
    try:
        with Progress(*COLUMNS, console=console, transient=True) as progress, files.pool() as reading:
            task = progress.add_task("indexing", total=None)

            def tell(done: int, total: int, _: Path) -> None:
                progress.update(task, completed=done, total=total)

            report = IndexReport()
            for path in paths:
                report += index_path(
                    store, path, collection, allow_empty=allow_empty, on_file=tell, load=reading.read, ocr=reading.ocr
                )
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
