"""A store and a folder for documents, both empty."""

from __future__ import annotations

import pytest

from distilledprag.documents.store import DocumentStore


@pytest.fixture
def store(tmp_path):
    store = DocumentStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    return folder
