"""The passages that a question needs: by their words (BM25), by their meaning (dense) or by both; in memory, over a corpus on
disk or a document store, or on a server."""

from distilledprag.retrieval.bm25 import BM25Retriever, Retriever, usual_k
from distilledprag.retrieval.corpus_index import CorpusIndex
from distilledprag.retrieval.selection import select

__all__ = ["BM25Retriever", "CorpusIndex", "Retriever", "select", "usual_k"]
