"""BM25 over a corpus too large for memory (DPR's 21 million Wikipedia passages): built once, memory-mapped when loaded.

Ranks as `BM25Retriever` does over the same passages. Knows nothing about models or prompts.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.passages import Passage
from distilledprag.errors import InputError
from distilledprag.retrieval.bm25 import best_places
from distilledprag.retrieval.corpus_building import (
    FORMAT,
    MANIFEST,
    SHARD_PASSAGES,
    Shard,
    build_index,
    index_folder,
    shard_folder,
    word_hashes,
)
from distilledprag.retrieval.corpus_lines import Corpus
from distilledprag.text import words_of


class CorpusIndex:
    """A Retriever (see `retrieval.py`) over an index on disk. Neither scores nor texts are held in memory: scores are
    memory-mapped, texts are read from the corpus file, which must stay where it is or be named again.

    A question needs one pass over the shards, and the memory of one shard's scores (4 bytes per passage).
    """

    def __init__(self, folder: str | Path, corpus: str | Path | None = None) -> None:
        """Load the index in `folder`. corpus: the corpus file, where it no longer is where it was.

        Raises InputError when there is no finished index, or when the corpus file is missing or another one.
        """
        import bm25s

        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise InputError(f"{folder} holds no finished index; build it first, or again: an unfinished one is taken up")
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            form = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder / MANIFEST} is damaged ({error}); delete {folder} and build it again") from error
        if form != FORMAT:
            raise InputError(f"{folder} is an index of format {form}, this is for {FORMAT}; delete it and build it again")
        try:
            self.corpus = Corpus(corpus or manifest["corpus"])
        except InputError as error:
            raise InputError(f"the corpus of the index {folder} cannot be read: {error}; give its place as `corpus`") from error
        if self.corpus.fingerprint() != manifest["fingerprint"]:
            raise InputError(f"{self.corpus.file} is not the corpus of the index {folder}; name that one, or build again")
        shards = [Shard(**shard) for shard in manifest["shards"]]
        self._firsts = [shard.first for shard in shards]
        self._passages = shards[-1].first + shards[-1].passages
        numbers = range(len(shards))
        try:
            self._words = [np.load(shard_folder(self.folder, number) / "words.npy", mmap_mode="r") for number in numbers]
            self._indexes = [
                bm25s.BM25.load(index_folder(self.folder, number), mmap=True, load_vocab=False, show_progress=False)
                for number in numbers
            ]
        except (OSError, ValueError) as error:
            raise InputError(f"the index {folder} is damaged ({error}); delete it and build it again") from error

    @classmethod
    def build(
        cls,
        corpus: str | Path,
        folder: str | Path,
        shard_passages: int = SHARD_PASSAGES,
        show_progress: bool = True,
    ) -> CorpusIndex:
        """The index of `corpus` (.tsv in DPR's format, or .jsonl) in `folder`, made if it does not stand there yet.

        Takes up a build that was stopped. shard_passages: memory and the number of open files depend on it (about 3 kB per
        passage; 4 files per shard), the ranking does not. Raises InputError naming the line that is no passage, and for a
        folder with something else.
        """
        build_index(Corpus(corpus), Path(folder), shard_passages, show_progress)
        return cls(folder, corpus)

    def __len__(self) -> int:
        """Number of passages."""
        return self._passages

    def passage(self, number: int) -> Passage:
        """Passage `number`, from 0, in the corpus file's order. Raises InputError when there is none."""
        if not 0 <= number < len(self):
            raise InputError(f"there is no passage {number}; the corpus has the numbers 0 to {len(self) - 1}")
        shard = bisect_right(self._firsts, number) - 1
        offsets = np.load(shard_folder(self.folder, shard) / "offsets.npy", mmap_mode="r")
        title, text = self.corpus.read(int(offsets[number - self._firsts[shard]]))
        return Passage(text, str(self.corpus.file), title, number)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first; ties keep the corpus's order.

        Passages that share no word with the question score 0. Raises InputError for an empty question, and for a `k` below 1
        or above the number of passages.
        """
        return [(self.passage(number), score) for number, score in self.rank(question, k)]

    def rank(self, question: str, k: int) -> list[tuple[int, float]]:
        """As `retrieve`, but the passages' numbers: their texts are not read."""
        if not question.strip():
            raise InputError("the question is empty; write one")
        if not 1 <= k <= len(self):
            raise InputError(f"top-k is {k}; it must be at least 1 and at most {len(self)}, the number of passages")
        hashes = word_hashes(words_of(question))
        numbers, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        for shard, first in enumerate(self._firsts):
            places, found = self._best(shard, hashes, k)
            numbers, scores = np.concatenate([numbers, first + places]), np.concatenate([scores, found])
            best = np.argsort(-scores, kind="stable")[:k]
            numbers, scores = numbers[best], scores[best]
        return list(zip(numbers.tolist(), scores.tolist(), strict=True))

    def _best(self, shard: int, hashes: NDArray[np.uint64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The at most `k` best passages of a shard, best first, ties in order: places (<= k,) and scores (<= k,)."""
        words, index = self._words[shard], self._indexes[shard]
        columns = np.searchsorted(words, hashes)
        known = columns[words[np.minimum(columns, len(words) - 1)] == hashes]
        count = index.scores["num_docs"]
        scores = index.get_scores_from_ids(known.tolist()) if len(known) else np.zeros(count, dtype=np.float32)
        best = best_places(scores, min(k, count))
        return best, scores[best]
