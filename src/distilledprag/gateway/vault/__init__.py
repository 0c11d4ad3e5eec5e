"""Documents at rest: one SQLite file with documents, their passages and a full-text index.

database.py   the file: permissions, schema, transactions, what SQLite's errors mean
documents.py  Vault: add, list, read, delete
search.py     VaultRetriever: BM25 over the vault, behind the passages' Retriever protocol
preparing.py  bytes or text -> a document ready to be stored
indexing.py   folders -> vault, incrementally

Knows nothing about models, adapters or HTTP.
"""

from distilledprag.gateway.vault.database import Database
from distilledprag.gateway.vault.documents import DEFAULT_COLLECTION, Vault
from distilledprag.gateway.vault.preparing import PreparedDocument, prepare_bytes, prepare_file, prepare_text
from distilledprag.gateway.vault.search import VaultRetriever

__all__ = [
    "DEFAULT_COLLECTION",
    "Database",
    "PreparedDocument",
    "Vault",
    "VaultRetriever",
    "prepare_bytes",
    "prepare_file",
    "prepare_text",
]
