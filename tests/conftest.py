"""A tiny base LM with random weights, a tiny tokenizer and a mask token, shared by the suite.

What is slow to import is imported by the fixtures: pytest-xdist loads this file in the process that only hands tests out, too.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import postgres_server
import pytest

if TYPE_CHECKING:
    from distilledprag.base.llm import BaseLLM


def pytest_collection_finish() -> None:
    """Imported modules stay to the end: without this every collection of garbage looks at their million objects again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def system_certificates_are_read_once():
    """An HTTP client reads the system's certificates when it is made, 20 ms of CPU time; the suite makes over a thousand."""
    import certifi
    import httpcore2

    create, usual = ssl.create_default_context, (None, certifi.where(), os.environ.get("SSL_CERT_FILE"))
    of_system = functools.cache(create)

    def context(*arguments, cafile=None, **options):
        return (of_system if cafile in usual else create)(*arguments, cafile=cafile, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", context)
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def servers_stop_at_once():
    """uvicorn looks every tenth of a second whether it should stop, and then waits for another one; here for a fiftieth of it."""
    import asyncio

    import uvicorn.server

    hurried = SimpleNamespace(**vars(asyncio) | {"sleep": lambda seconds: asyncio.sleep(seconds / 50)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.server, "asyncio", hurried)
        yield


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_tiny_base

    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base", seed=0)


@pytest.fixture(scope="session")
def other_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_tiny_base

    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "other-base", seed=1)


@pytest.fixture(scope="session")
def tiny_prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_tiny_prepared

    return save_tiny_prepared(tmp_path_factory.mktemp("tiny") / "prepared")


@pytest.fixture(scope="session")
def tiny_base(tiny_base_folder: Path) -> BaseLLM:
    import torch

    from distilledprag.base.llm import load_base

    return load_base(tiny_base_folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_generator_folder(tiny_base: BaseLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import PAPER, random_generator

    folder = tmp_path_factory.mktemp("tiny") / "generator"
    random_generator(tiny_base, PAPER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reading():
    """The processes that read files, shared so that few are started."""
    from distilledprag.documents.reading import ReadingPool

    with ReadingPool() as pool:
        yield pool


@pytest.fixture(scope="session")
def half_scanned(tmp_path_factory):
    """A PDF whose pages 2 and 3 are pictures."""
    from fpdf import FPDF
    from PIL import Image

    pdf, file = FPDF(), tmp_path_factory.mktemp("scan") / "scan.pdf"
    pdf.set_font("Helvetica", size=12)
    for page in range(1, 5):
        pdf.add_page()
        if page in (2, 3):
            pdf.image(Image.new("L", (60, 60), 128), w=100)
        else:
            pdf.cell(text=f"Anna Tovberg lives in house number {page} of Oakport.")
    pdf.output(str(file))
    return file


@pytest.fixture(scope="session")
def postgres():
    """Makes an empty database, and returns its address."""
    if postgres_server.program("initdb") is None:
        pytest.skip("there is no PostgreSQL server here (Debian: apt install postgresql)")
    with postgres_server.serving() as make:
        yield make


ON_POSTGRES = (pytest.mark.slow, pytest.mark.scale)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=ON_POSTGRES)])
def new_place(request, tmp_path):
    """Makes a place for an empty store, one after the other, in each kind of database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres")
    numbers = itertools.count()
    return lambda: tmp_path / f"store-{next(numbers)}"


@pytest.fixture
def dprag(monkeypatch, capsys):
    """Run the command in this process; returns (exit code, stdout, stderr)."""
    from distilledprag.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dprag", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return run
