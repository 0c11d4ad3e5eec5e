"""A store that `dprag index` made, for the commands that ask one."""

from __future__ import annotations

import pytest
from tiny import save_tiny_encoder

from distilledprag.cli.store import Search, States, index


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """The folder of a sentence encoder with random weights."""
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, tiny_prepared_folder, encoder):
    """Two collections, by words and by meaning, encoded ahead. Its commands change nothing in it."""
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "people.md").write_text("# Homes\n\nAnna Tovberg lives in Oakport.\n\nBram Keller lives in Dunburg.\n")
    (folder / "rent.txt").write_text("The rent is $1,249.50 a month.\n")
    search = Search("hybrid", str(encoder))
    states = States(str(tiny_prepared_folder), limit=64)
    index([folder / "people.md"], str(folder / "store"), "people", False, search=search, states=states)
    index([folder / "rent.txt"], str(folder / "store"), "contracts", False, search=search, states=states)
    return folder / "store"
