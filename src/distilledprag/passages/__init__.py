"""Files -> passages -> the passages that a question needs. Knows nothing about models or prompts."""

from distilledprag.passages.corpus_index import CorpusIndex
from distilledprag.passages.loading import load_file, load_passages
from distilledprag.passages.record import Passage
from distilledprag.passages.retrieval import BM25Retriever, Retriever, usual_k

__all__ = ["BM25Retriever", "CorpusIndex", "Passage", "Retriever", "load_file", "load_passages", "usual_k"]
