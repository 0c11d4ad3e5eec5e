"""Stores and a folder for documents, all empty."""

from __future__ import annotations

import pytest

from distilledprag.documents.store import DocumentStore


@pytest.fixture
def place(new_place):
    return new_place()


@pytest.fixture
def store(place):
    store = DocumentStore(place)
    yield store
    store.close()


@pytest.fixture
def file_store(tmp_path):
    """One in a SQLite file, for what only a file has."""
    store = DocumentStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    return folder
