"""The options of every command that searches: --retriever, --encoder, --language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distilledprag.documents.passages import Passage
from distilledprag.documents.store import DocumentStore
from distilledprag.retrieval.bm25 import BM25Retriever, Finder
from distilledprag.retrieval.dense import (
    DenseRetriever,
    HybridRetriever,
    StoreDenseRetriever,
    checked_kind,
    memory_retriever,
    store_finder,
)
from distilledprag.retrieval.encoder import SentenceEncoder
from distilledprag.words import PLAIN, WordRule


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

    def _encoder(self, say: Callable[[str], None]) -> SentenceEncoder | None:
        return None if self.retriever == "bm25" else SentenceEncoder(self.encoder, say)


BY_WORDS = Search()
