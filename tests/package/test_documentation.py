"""The examples of the documentation run: Python blocks of docs/extending.md, commands and Python of the README."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import httpx2
import pytest
import torch
from declared import EXTRAS
from processes import server
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.llm import save_base
from distilledprag.documents import readers
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


@pytest.mark.parametrize("section", SECTIONS)
def test_an_example_of_extending_runs(section, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    found = blocks(SECTIONS[section], "python")
    assert found
    monkeypatch.setattr(readers, "READERS", dict(readers.READERS))
    monkeypatch.setattr(benchmarks, "LOADERS", dict(benchmarks.LOADERS))
    names = {"tiny_base": tiny_base, "torch": torch}
    for source in found:
        if source.startswith("# src/"):
            add_module(source, tmp_path / "new", monkeypatch)
        else:
            exec(compile(source, f"docs/extending.md, {section}", "exec"), names)


# --- the map of the code


def test_files_that_the_design_names_exist():
    text = (ROOT / "docs" / "design.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text))
    assert len(named) > 20
    assert not [name for name in sorted(named) if not any((part / name).exists() for part in (ROOT, ROOT / "src/distilledprag"))]
    rooms = {folder.name for folder in (ROOT / "src" / "distilledprag").iterdir() if list(folder.glob("*.py"))}
    assert rooms <= set(re.findall(r"^  ([a-z_]+)/ ", text, re.MULTILINE))


# --- the README

README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for block in blocks(file.read_text(), "bash")
    for line in block.replace("\\\n", " ").splitlines()
]
OURS = [command[1:] for command in COMMANDS if command and command[0] in ("dprag", ".venv/bin/dprag")]
QUESTION = "How much is the deposit?"


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_a_command_of_the_documentation_exists_with_its_options(command, dprag):
    code, shown, _ = dprag(command[0], "--help")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert code == 0
    for option in command[1:]:
        if option.startswith("--"):
            assert re.search(rf"(?<![\w-]){re.escape(option.partition('=')[0])}(?![\w-])", shown), f"{command[0]} has no {option}"


def test_make_targets_and_extras_that_the_documentation_names_exist():
    text = "\n".join(file.read_text() for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    in_code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(body for _, body in BLOCK.findall(text))])
    named = {word for words in re.findall(r"\bmake ((?:[a-z0-9-]+ ?)+)", in_code) for word in words.split()}
    assert named and named <= targets
    assert {"demo", "test"} <= named
    assert {
        extra for found in re.findall(r"(?:distilledprag|'\.)\[([\w,-]+)\]", text) for extra in found.split(",")
    } <= EXTRAS.keys()


def test_links_of_the_documentation_lead_somewhere():
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", BLOCK.sub("", file.read_text())):
            assert link.startswith("http") or (file.parent / link).exists(), f"{file.name} links to {link}"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty working folder with the sample documents at the path that the README names."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_use_it_answer_on_the_default_base(checkout, dprag):
    asked = [command for command in OURS if command[:2] == ["ask", QUESTION] and "--base" not in command][:2]
    encode = next(command for command in OURS if command[:2] == ["encode", "examples/documents/lease.pdf"])
    assert "--compare" in asked[0] and "--rows" in asked[1]
    for command in asked:
        code, out, err = dprag(*command)
        assert code == 0 and "2,680" in out, err
    code, out, err = dprag(*encode)
    assert code == 0 and json.loads(out)["bytes"] > 0 and (checkout / "adapter" / "adapter_config.json").exists(), err


def test_the_commands_for_an_own_llm_work_on_a_plain_model(checkout, dprag):
    tokenizer = tiny_tokenizer()
    save_base(tiny_model(tokenizer, intermediate_size=320, num_hidden_layers=4), tokenizer, checkout / "plain")
    prepare = next(command for command in OURS if command[0] == "prepare-base" and "bases/qwen" in command)
    ask = next(command for command in OURS if command[0] == "ask" and "bases/qwen" in command)
    assert prepare[1].startswith("Qwen/")
    prepare = ["prepare-base", "plain", *prepare[2:], "--masks", "64"]  # fewer masks take less time
    for command in (prepare, [*ask, "--json"]):
        code, out, err = dprag(*command)
        assert code == 0, err
    assert json.loads(out)["sent"]["masks"] > 0
    assert (checkout / "bases" / "qwen-encoder" / "config.json").exists()


def test_the_python_example_of_the_readme_runs_on_the_default_base(checkout):
    names: dict = {}
    (example,) = [block for block in blocks(README, "python") if "from_pretrained" in block]
    exec(compile(example, "README.md", "exec"), names)
    assert names["answer"].text == "Dr. Osei" and (checkout / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_the_openai_example_of_the_readme_runs_against_dprag_serve(checkout):
    (example,) = [block for block in blocks(README, "python") if "from openai" in block]
    names: dict = {}
    with server("serve", "--port", 0, "--engine-port", 0, "--no-browser") as (_, url):
        file = checkout / "examples" / "documents" / "lease.pdf"
        response = httpx2.post(f"{url}/v1/documents", files={"file": (file.name, file.read_bytes())}, trust_env=False, timeout=60)
        assert response.status_code == 200
        exec(compile(example.replace("http://127.0.0.1:8080", url), "README.md", "exec"), names)
    assert "2,680" in names["made"].choices[0].message.content
