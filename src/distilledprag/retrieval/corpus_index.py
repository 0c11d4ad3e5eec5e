"""BM25 over a corpus too large for memory (DPR's 21 million Wikipedia passages): an index on disk, built once, memory-mapped.

It ranks as `BM25Retriever` does over the same passages. Building takes bounded memory, in three steps, each of which goes on
where it was stopped:

1. The corpus is read once as a stream; every `shard_passages` passages become a shard: which words (64-bit hashes) are how
   often in which passage. Memory: one shard.
2. Document frequencies are summed over all shards, a range of hashes at a time. Memory: one range.
3. Each shard becomes a bm25s index, scored with the frequencies and the mean length of the whole corpus, so that scores of
   different shards compare and equal those of one index over everything. Memory: one shard.

In a corpus of ten million different words, the chance that any two share a hash is 3 in a million.

V = different words of a shard, T = (word, passage) pairs of a shard, N = passages of a shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from distilledprag.documents.passages import Passage
from distilledprag.errors import InputError
from distilledprag.files import replace_folder, write_atomically
from distilledprag.retrieval.bm25 import K1, B, best_places, check_request, load_bm25s
from distilledprag.retrieval.corpus import Corpus, CorpusLine
from distilledprag.words import words_of

SHARD_PASSAGES = 200_000
FORMAT = 2  # 1 had other words
PLAN, MANIFEST = "plan.json", "corpus_index.json"
HASHES_AT_ONCE = 1_000_000  # in step 2
PAIRS_AT_ONCE = 500_000  # (word, passage) pairs, in step 3

Array = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """What a shard holds. first: number of its first passage, from 0; words: sum of its passages' lengths; end: byte of the
    corpus file behind its last line; next_line: number of the line there, from 1."""

    first: int
    passages: int
    words: int
    end: int
    next_line: int


def word_hashes(words: Sequence[str]) -> Array:
    """64-bit hashes (W,) of words."""
    digests = b"".join(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, dtype="<u8")


def shard_folder(folder: Path, number: int) -> Path:
    """Words and places of the passages of a shard: words.npy (V,) sorted hashes, offsets.npy (N,) bytes."""
    return folder / f"shard-{number:05d}"


def index_folder(folder: Path, number: int) -> Path:
    """The shard's bm25s index; column v holds the passages with word v."""
    return folder / f"shard-{number:05d}.bm25"


class CorpusIndex:
    """A Retriever over an index on disk. Neither scores nor texts are held in memory: scores are memory-mapped, texts are read
    from the corpus file, which must stay where it is or be named again.

    A question needs one pass over the shards, and the memory of one shard's scores (4 bytes per passage). words: of each shard
    the sorted hashes (V,), indexes: its `bm25s.BM25`; both memory-mapped.
    """

    def __init__(self, folder: str | Path, corpus: str | Path | None = None) -> None:
        """Load the index in `folder`. corpus: the corpus file, if it has moved.

        Raises InputError when there is no finished index, or when the corpus file is missing or a different one.
        """
        bm25s = load_bm25s()
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise InputError(f"{folder} holds no finished index; build it (that goes on where it was stopped)")
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
            self.words = [np.load(shard_folder(self.folder, number) / "words.npy", mmap_mode="r") for number in numbers]
            self.indexes = [
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
        """The index of `corpus` (.tsv in DPR's format, or .jsonl) in `folder`, made if it is not there yet.

        Goes on with a build that was stopped. shard_passages: memory and the number of open files depend on it (about 3 kB per
        passage; 4 files per shard), the ranking does not. Raises InputError naming the line that is not a passage, and for a
        folder that holds something else.
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
        """As `retrieve`, but with the passages' numbers: their texts are not read."""
        check_request(question, k, len(self))
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
        words, index = self.words[shard], self.indexes[shard]
        columns = np.searchsorted(words, hashes)
        known = columns[words[np.minimum(columns, len(words) - 1)] == hashes]
        count = index.scores["num_docs"]
        scores = index.get_scores_from_ids(known.tolist()) if len(known) else np.zeros(count, dtype=np.float32)
        best = best_places(scores, min(k, count))
        return best, scores[best]


def build_index(corpus: Corpus, folder: Path, shard_passages: int, show_progress: bool) -> None:
    """Make the index of `corpus` in `folder`, or finish one that was begun there. Does nothing if it is finished already.

    Raises InputError for a corpus line that is not a passage, fewer than 1 passage per shard, and a folder that holds something
    else.
    """
    if shard_passages < 1:
        raise InputError(f"shards of {shard_passages} passages cannot be made; give at least 1")
    plan = {"format": FORMAT, "fingerprint": corpus.fingerprint(), "shard_passages": shard_passages, "k1": K1, "b": B}
    _begin(folder, plan)
    if (folder / MANIFEST).exists():
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show_progress) as progress:
        shards = _read_corpus(corpus, folder, shard_passages, progress)
        if corpus.fingerprint() != plan["fingerprint"]:
            raise InputError(f"{corpus.file} changed while it was read; delete {folder} and build again")
        sum_frequencies(folder, len(shards), progress)
        _score(folder, shards, progress)
    manifest = {**plan, "corpus": str(corpus.file), "shards": [dataclasses.asdict(shard) for shard in shards]}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    for number in range(len(shards)):
        for name in ("starts", "lengths", "frequencies"):
            (shard_folder(folder, number) / f"{name}.npy").unlink(missing_ok=True)


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan into a new folder, or check that what was begun there follows the same one."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / PLAN).exists())):
        raise InputError(f"{folder} holds something else than an index; name an empty or a new folder")
    if not (folder / PLAN).exists():
        write_atomically(folder / PLAN, json.dumps(plan, indent=1))
    if json.loads((folder / PLAN).read_text()) != plan:
        raise InputError(
            f"{folder} holds an index of another corpus or with other settings; name another folder, or delete it to build again"
        )
    for left in folder.glob(".shard-*"):  # of a run that was killed
        shutil.rmtree(left)


def _read_corpus(corpus: Corpus, folder: Path, shard_passages: int, progress: Progress) -> list[Shard]:
    shards: list[Shard] = []
    while (described := shard_folder(folder, len(shards)) / "shard.json").exists():
        shards.append(Shard(**json.loads(described.read_text())))
    end, next_line = (shards[-1].end, shards[-1].next_line) if shards else (0, 1)
    task = progress.add_task("reading the corpus", total=corpus.size, completed=end)
    lines = corpus.lines(end, next_line)
    ahead = next(lines, None)
    while ahead is not None:
        first = shards[-1].first + shards[-1].passages if shards else 0
        held = Postings()
        for line in islice(chain([ahead], lines), shard_passages):
            held.add(line)
            if not len(held.offsets) % 1000:
                progress.update(task, completed=line.offset)
        ahead = next(lines, None)
        end, next_line = (ahead.offset, ahead.number) if ahead else (corpus.size, line.number + 1)
        shard = Shard(first, len(held.offsets), sum(held.lengths), end, next_line)
        with replace_folder(shard_folder(folder, len(shards))) as temporary:
            held.save(temporary)
            write_atomically(temporary / "shard.json", json.dumps(dataclasses.asdict(shard)))
        shards.append(shard)
    if not shards:
        raise InputError(f"{corpus.file} holds no passages; give a corpus with at least one")
    progress.update(task, completed=corpus.size)
    return shards


class Postings:
    """The (word, passage, count) triples of a shard, in the order of its passages."""

    def __init__(self) -> None:
        self.offsets, self.lengths = array("Q"), array("I")
        self._vocabulary: dict[str, int] = {}
        self._words, self._counts, self._different = array("i"), array("I"), array("I")

    def add(self, line: CorpusLine) -> None:
        """One passage; its title counts as part of it, and without words it has the word NUL, as in `BM25Retriever`."""
        words = words_of(f"{line.title} {line.text}") or ["\0"]
        counts = Counter(words)
        self._words.extend(self._vocabulary.setdefault(word, len(self._vocabulary)) for word in counts)
        self._counts.extend(counts.values())
        self._different.append(len(counts))
        self.offsets.append(line.offset)
        self.lengths.append(len(words))

    def save(self, folder: Path) -> None:
        """words (V,) sorted; starts (V + 1,); passages and counts (T,) by word, then passage; lengths and offsets (N,)."""
        hashes = word_hashes(list(self._vocabulary))
        self._vocabulary.clear()  # most of the memory, and not needed for what follows
        order = np.argsort(hashes)
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        columns = place[np.frombuffer(self._words, dtype=np.int32)]  # (T,)
        starts = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(np.bincount(columns, minlength=len(order)), out=starts[1:])
        by_word = np.argsort(columns, kind="stable")
        different = np.frombuffer(self._different, dtype=np.uint32)
        passages = np.repeat(np.arange(len(different), dtype=np.int32), different)
        np.save(folder / "words.npy", hashes[order])
        np.save(folder / "starts.npy", starts)
        np.save(folder / "passages.npy", passages[by_word])
        np.save(folder / "counts.npy", np.frombuffer(self._counts, dtype=np.uint32)[by_word])
        np.save(folder / "lengths.npy", np.frombuffer(self.lengths, dtype=np.uint32))
        np.save(folder / "offsets.npy", np.frombuffer(self.offsets, dtype=np.uint64))


def sum_frequencies(folder: Path, shards: int, progress: Progress) -> None:
    """For each shard frequencies.npy (V,): in how many passages of the whole corpus its words are."""
    folders = [shard_folder(folder, number) for number in range(shards)]
    sizes = [len(_mapped(shard / "words.npy")) for shard in folders]
    for shard, size in zip(folders, sizes, strict=True):
        np.lib.format.open_memmap(shard / "frequencies.npy", mode="w+", dtype=np.int64, shape=(size,))
    ranges = -(-sum(sizes) // HASHES_AT_ONCE)
    for part in progress.track(range(ranges), description="counting documents"):
        spans, words, counts = [], [], []
        for shard, size in zip(folders, sizes, strict=True):
            hashes = _mapped(shard / "words.npy")
            begin = int(np.searchsorted(hashes, np.uint64((part << 64) // ranges)))
            end = size if part + 1 == ranges else int(np.searchsorted(hashes, np.uint64((part + 1 << 64) // ranges)))
            spans.append(slice(begin, end))
            words.append(hashes[begin:end])
            counts.append(np.diff(_mapped(shard / "starts.npy")[begin : end + 1]))
        unique, where = np.unique(np.concatenate(words), return_inverse=True)
        sums = np.bincount(where, weights=np.concatenate(counts), minlength=len(unique)).astype(np.int64)[where]
        ends = np.cumsum([span.stop - span.start for span in spans])
        for shard, span, found in zip(folders, spans, np.split(sums, ends[:-1]), strict=True):
            np.lib.format.open_memmap(shard / "frequencies.npy", mode="r+")[span] = found


def _score(folder: Path, shards: list[Shard], progress: Progress) -> None:
    """The bm25s index of each shard, whose postings are deleted once it is written."""
    bm25s = load_bm25s()
    total = sum(shard.passages for shard in shards)
    mean_length = sum(shard.words for shard in shards) / total
    for number in progress.track(range(len(shards)), description="scoring"):
        shard = shard_folder(folder, number)
        if not index_folder(folder, number).exists():
            starts, lengths = np.load(shard / "starts.npy"), np.load(shard / "lengths.npy")
            passages, counts = _mapped(shard / "passages.npy"), _mapped(shard / "counts.npy")
            idf = inverse_frequencies(np.load(shard / "frequencies.npy"), total)
            data = np.empty(len(passages), dtype=np.float32)
            for begin in range(0, len(data), PAIRS_AT_ONCE):
                block = slice(begin, min(begin + PAIRS_AT_ONCE, len(data)))
                column = np.searchsorted(starts, np.arange(block.start, block.stop), side="right") - 1
                norm = K1 * ((1 - B) + B * lengths[passages[block]].astype(np.float64) / mean_length)
                count = counts[block].astype(np.float64)
                data[block] = idf[column] * (count / (norm + count))
            index = bm25s.BM25(k1=K1, b=B, method="lucene")
            index.scores = {"data": data, "indices": passages, "indptr": starts, "num_docs": shards[number].passages}
            index.vocab_dict, index.nonoccurrence_array = {}, None
            with replace_folder(index_folder(folder, number)) as temporary:
                index.save(temporary, show_progress=False)
        for name in ("passages", "counts"):
            (shard / f"{name}.npy").unlink(missing_ok=True)


def inverse_frequencies(frequencies: Array, passages: int) -> Array:
    """Lucene's idf of words that are in `frequencies` (V,) of all passages: ln(1 + (N - n + 0.5) / (n + 0.5)), float32."""
    different, where = np.unique(frequencies, return_inverse=True)
    values = [math.log(1 + (passages - int(n) + 0.5) / (int(n) + 0.5)) for n in different]
    return np.array(values, dtype=np.float32)[where]


def _mapped(file: Path) -> Array:
    return np.load(file, mmap_mode="r")
