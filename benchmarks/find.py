"""Finding: indexing documents and asking for passages, as the store grows; and BM25 over a corpus on disk.

Texts are made up: 100 words drawn by Zipf's law from a vocabulary that keeps growing. A million passages take `index_memory.py`
some ten minutes; the page shows its figures beside these.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from index_memory import write_corpus
from measuring import Watch, medians

from distilledprag.documents import Passage
from distilledprag.documents.indexing import content_hash
from distilledprag.documents.store import DocumentStore, PreparedDocument
from distilledprag.pipeline import DistilledPRAG
from distilledprag.retrieval.bm25 import StoreRetriever
from distilledprag.retrieval.corpus_index import CorpusIndex

LARGEST = 100_000  # passages of the corpus
IN_STORE = 10_000


def measure(_: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Seconds to index and to find, by number of passages."""
    growth = []
    for passages in (100, 400) if quick else (250, 1000, 10_000, LARGEST):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_corpus(folder / "psgs.tsv", passages)
            lines = (folder / "psgs.tsv").read_text().splitlines()[1:]
            if passages <= IN_STORE:
                growth += _store(folder / "store", [line.split("\t")[1].strip('"') for line in lines])
            watch = Watch()
            index = CorpusIndex.build(folder / "psgs.tsv", folder / "index")
            growth.append({"passages": passages, "way": "corpus, index", **medians([watch.spent()])})
            times = []
            for line in lines[:: max(1, passages // 20)]:
                watch = Watch()
                index.retrieve(" ".join(line.split()[1:11]), 3)
                times.append(watch.spent())
            growth.append({"passages": passages, "way": "corpus, a question", **medians(times)})
    ratios: dict[str, dict[str, float]] = {}
    for way in ("store, a question", "corpus, a question"):
        of = [row for row in growth if row["way"] == way]
        ratios[f"{way}, {of[-1]['passages']} / {of[0]['passages']} passages"] = {
            key: round(of[-1][key] / of[0][key], 2) for key in ("seconds", "processor_seconds")
        }
    return {"rows": [], "growth": growth, "ratios": ratios, "at_most": {}}


def _store(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    store = DocumentStore(folder)
    try:
        watch = Watch()
        for begin in range(0, len(texts), 32):
            some = texts[begin : begin + 32]
            store.add([PreparedDocument("made.txt", [Passage(t, "")], content_hash(t.encode()), len(t)) for t in some])
        indexed, times = watch.spent(), []
        for text in texts[:: max(1, len(texts) // 20)]:
            watch = Watch()
            StoreRetriever(store.database, "default").find(" ".join(text.split()[:10]), 3)
            times.append(watch.spent())
    finally:
        store.close()
    return [
        {"passages": len(texts), "way": "store, index", **medians([indexed])},
        {"passages": len(texts), "way": "store, a question", **medians(times)},
    ]
