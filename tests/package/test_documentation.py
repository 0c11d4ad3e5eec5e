"""The examples of the documentation run: Python blocks of docs/extending.md, commands and Python of the README."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from distilledprag.documents import loading
from distilledprag.evaluation import benchmarks

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE | re.DOTALL)
)


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text) if name == language]


def add_module(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a block that begins with `# src/distilledprag/room/name.py` the package's module of that name."""
    path = Path(source.split("\n", 1)[0].removeprefix("# src/"))
    assert not (ROOT / "src" / path).exists(), f"{path} exists; the example needs another name"
    package = importlib.import_module(".".join(path.parent.parts))
    (folder / path.name).write_text(source)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.import_module(".".join(path.with_suffix("").parts))


WAITING = {"A benchmark"}  # for evaluation/benchmark_files.py
marks = {name: [pytest.mark.xfail(reason="written for the coming evaluation/benchmark_files.py")] for name in WAITING}


@pytest.mark.parametrize("section", [pytest.param(name, marks=marks.get(name, [])) for name in SECTIONS])
def test_an_example_of_extending_runs(section, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    found = blocks(SECTIONS[section], "python")
    assert found
    monkeypatch.setattr(loading, "READERS", dict(loading.READERS))
    monkeypatch.setattr(benchmarks, "LOADERS", dict(benchmarks.LOADERS))
    names = {"tiny_base": tiny_base, "torch": torch}
    for source in found:
        if source.startswith("# src/"):
            add_module(source, tmp_path / "new", monkeypatch)
        else:
            exec(compile(source, f"docs/extending.md, {section}", "exec"), names)
