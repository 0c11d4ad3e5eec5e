"""The passages that a question needs, by BM25: in memory, over a corpus on disk or a document store, or on a server."""

from distilledprag.retrieval.bm25 import BM25Retriever, Retriever, usual_k
from distilledprag.retrieval.corpus_index import CorpusIndex

__all__ = ["BM25Retriever", "CorpusIndex", "Retriever", "usual_k"]
