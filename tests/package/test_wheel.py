"""The wheel as a user installs it: what is in it, and that each extra's declared dependencies are enough.

The quick tests lay out an environment of symbolic links to the packages installed here, those alone that an extra brings;
the slow one asks the package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from declared import ROOT, installed_with, modules

from distilledprag import __version__

SHIPPED = {
    "README.md", "log.jsonl", "masks.safetensors", "reader.safetensors", "training.json",
    "sentence_scorer.json", "sentence_scorer.safetensors", "word-scorer.json", "word-scorer.safetensors",
}  # fmt: skip
IMPORT_ALL = "import importlib, json, sys; print(len([importlib.import_module(name) for name in json.load(sys.stdin)]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (made,) = folder.glob("*.whl")
    return made


class Environment:
    """A virtual environment with the wheel in it, used from an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"
        (folder / "empty").mkdir(parents=True)
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, program: str, *arguments: str | Path, given: str | None = None, code: int = 0) -> str:
        """What the program prints; it must exit with `code`."""
        command = [self.bin / program, *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, cwd=self.folder / "empty", env=self.variables, timeout=1500
        )
        assert done.returncode == code, (done.stdout + done.stderr)[-4000:]
        return done.stderr if code else done.stdout

    def check(self, extra: str | None) -> None:
        """The command answers, and every module that the extra allows can be imported, from the wheel."""
        assert self.run("dprag", "--version").split() == ["dprag", __version__]
        shown = self.run("dprag", "--help")
        for command in ("ask", "encode", "prepare-base", "demo", "train", "evaluate", "engine", "gateway", "serve"):
            assert command in shown
        where = self.run("python", "-c", "import distilledprag; print(distilledprag.__file__)")
        assert Path(where.strip()).is_relative_to(self.folder)
        names = modules(extra)
        assert int(self.run("python", "-c", IMPORT_ALL, given=json.dumps(names))) == len(names) > 80


def linked(folder: Path, wheel: Path, extra: str | None) -> Environment:
    """An environment with the wheel and links to those installed packages that an extra brings."""
    made = Environment(folder)
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in installed_with(extra):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system than this one
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", str(made.bin / "python"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return made


def test_the_wheel_holds_the_package_and_no_comparison_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    weights = {name.rpartition("/")[2] for name in names if "/weights/" in name}
    assert weights == SHIPPED
    assert {"distilledprag/py.typed", "distilledprag/gateway/page/index.html"} <= names
    assert {"distilledprag/examples/questions.jsonl", "distilledprag/examples/documents/lease.pdf"} <= names
    sources = {file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert wheel.stat().st_size < 20e6


@pytest.mark.parametrize("extra", ["engine", "gateway", *(pytest.param(name, marks=pytest.mark.slow) for name in (None, "all"))])
def test_declared_dependencies_are_enough_for_every_module_of_an_extra(extra, wheel, tmp_path):
    made = linked(tmp_path, wheel, extra)
    made.check(extra)
    if extra == "engine":  # a command of another room says what to install
        said = made.run("dprag", "evaluate", "--data", "rows.jsonl", code=1)
        assert "pip install 'distilledprag[all]'" in said and "Traceback" not in said


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_without_a_checkout(wheel, tmp_path):
    shown = linked(tmp_path, wheel, "gateway").run("dprag", "demo")
    assert "Ten questions" in shown and "what leaves this machine" in shown


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["engine", "all"])
def test_installed_from_the_package_index(extra, wheel, tmp_path):
    made = Environment(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    made.run("python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[{extra}]")
    made.check(extra)
    have = {row["name"].lower() for row in json.loads(made.run("python", "-m", "pip", "list", "--format", "json"))}
    assert ("pypdfium2" in have) == (extra == "all")
    if extra == "all":
        assert "Ten questions" in made.run("dprag", "demo")
