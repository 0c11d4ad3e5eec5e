"""docs/method.md names files and functions: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "distilledprag"
TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/.-]+\.(?:py|yaml))(?:::([\w.]+))?`", TEXT)))


def defined(body: list[ast.stmt], name: str) -> bool:
    """Whether a module's or class's body defines `name`, or `Class.method`."""
    first, _, rest = name.partition(".")
    found = [node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == first]
    return bool(found) and (not rest or any(defined(node.body, rest) for node in found))


def test_the_page_names_functions():
    assert sum(bool(name) for _, name in NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED, ids=["::".join(filter(None, named)) for named in NAMED])
def test_what_the_page_names_exists(file, name):
    path = next((p for p in (SOURCES / file, ROOT / file, ROOT / "recipes" / file) if p.is_file()), None)
    assert path is not None, f"{file} does not exist"
    if name:
        assert defined(ast.parse(path.read_text(encoding="utf-8")).body, name), f"{file} does not define {name}"
