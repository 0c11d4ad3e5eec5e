"""A tiny base LM with random weights, a tiny tokenizer and a mask token, shared by the suite."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import postgres_server
import pytest
import torch
from fpdf import FPDF
from PIL import Image
from tiny import PAPER, random_generator, save_tiny_base, save_tiny_prepared

from distilledprag.base.llm import BaseLLM, load_base
from distilledprag.cli import main as cli
from distilledprag.documents.reading import ReadingPool


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base", seed=0)


@pytest.fixture(scope="session")
def other_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "other-base", seed=1)


@pytest.fixture(scope="session")
def tiny_prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prepared(tmp_path_factory.mktemp("tiny") / "prepared")


@pytest.fixture(scope="session")
def tiny_base(tiny_base_folder: Path) -> BaseLLM:
    return load_base(tiny_base_folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_generator_folder(tiny_base: BaseLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "generator"
    random_generator(tiny_base, PAPER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reading():
    """The processes that read files, shared so that few are started."""
    with ReadingPool() as pool:
        yield pool


@pytest.fixture(scope="session")
def half_scanned(tmp_path_factory):
    """A PDF whose pages 2 and 3 are pictures."""
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

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dprag", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return run
