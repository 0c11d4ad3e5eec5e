"""Documents at rest: one SQLite file with documents, their passages and a full-text index.

database.py   the file: permissions, schema, transactions, what SQLite's errors mean
documents.py  DocumentStore: add, list, read, delete
search.py     StoreRetriever: BM25 over the store, behind the passages' Retriever protocol
preparing.py  bytes or text -> a document ready to be stored
indexing.py   folders -> store, incrementally

Knows nothing about models, adapters or HTTP.
"""

from distilledprag.gateway.store.database import Database
from distilledprag.gateway.store.documents import DEFAULT_COLLECTION, DocumentStore
from distilledprag.gateway.store.preparing import PreparedDocument, prepare_bytes, prepare_file, prepare_text
from distilledprag.gateway.store.search import StoreRetriever

__all__ = [
    "DEFAULT_COLLECTION",
    "Database",
    "DocumentStore",
    "PreparedDocument",
    "StoreRetriever",
    "prepare_bytes",
    "prepare_file",
    "prepare_text",
]
