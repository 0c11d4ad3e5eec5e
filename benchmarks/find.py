"""Finding: indexing documents and asking for passages, as the store grows; and BM25 over a corpus on disk.

Texts are made up: 100 words drawn by Zipf's law from a vocabulary that keeps growing. A question is a passage's first ten words.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from index_memory import write_corpus
from measuring import Spent, Watch, medians, ratio

from distilledprag.documents import Passage
from distilledprag.documents.indexing import content_hash
from distilledprag.documents.store import DocumentStore, PreparedDocument
from distilledprag.pipeline import DistilledPRAG
from distilledprag.retrieval.bm25 import StoreRetriever
from distilledprag.retrieval.corpus import Corpus
from distilledprag.retrieval.corpus_index import CorpusIndex

SIZES = (1000, 10_000, 100_000, 1_000_000)  # passages
IN_STORE = 10_000  # the most that are put into a store
QUESTIONS = 20


def measure(_: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Seconds to index and to find, by number of passages."""
    found: dict[str, dict[int, list[Spent]]] = {}  # way -> passages -> what it took
    for passages in (100, 400) if quick else SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_corpus(folder / "psgs.tsv", passages)
            made = _corpus(folder) | (_store(folder) if passages <= IN_STORE else {})
        for way, times in made.items():
            found.setdefault(way, {})[passages] = times
    growth, ratios = [], {}
    for way, by_size in found.items():
        growth += [{"passages": passages, "way": way, **medians(times)} for passages, times in by_size.items()]
        if way.endswith("question"):
            least, most = min(by_size), max(by_size)
            ratios[f"{way}, {most} / {least} passages"] = ratio(by_size[most], by_size[least])
    return {"rows": [], "growth": growth, "ratios": ratios, "at_most": {}}


def _corpus(folder: Path) -> dict[str, list[Spent]]:
    watch = Watch()
    index = CorpusIndex.build(folder / "psgs.tsv", folder / "index", show_progress=False)
    indexed, times = watch.spent(), []
    step = len(index) // QUESTIONS
    for question in [" ".join(index.passage(number * step).text.split()[:10]) for number in range(QUESTIONS)]:
        watch = Watch()
        index.retrieve(question, 3)
        times.append(watch.spent())
    return {"corpus, index": [indexed], "corpus, a question": times}


def _store(folder: Path) -> dict[str, list[Spent]]:
    texts = [line.text for line in Corpus(folder / "psgs.tsv").lines()]
    store = DocumentStore(folder / "store")
    try:
        watch = Watch()
        for begin in range(0, len(texts), 32):
            some = texts[begin : begin + 32]
            store.add([PreparedDocument("made.txt", [Passage(t, "")], content_hash(t.encode()), len(t)) for t in some])
        indexed, times = watch.spent(), []
        for question in [" ".join(text.split()[:10]) for text in texts[:: len(texts) // QUESTIONS][:QUESTIONS]]:
            watch = Watch()
            StoreRetriever(store.database, "default").find(question, 3)
            times.append(watch.spent())
    finally:
        store.close()
    return {"store, index": [indexed], "store, a question": times}
