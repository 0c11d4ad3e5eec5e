"""The walls of the house: who may import whom, and words that do not belong in the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "distilledprag"
FILES = sorted(SOURCES.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imports(file: Path, everywhere: bool) -> set[str]:
    """Modules of ours that a file imports; `everywhere`: also inside functions. Type-checking imports do not count."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("distilledprag"):
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names if alias.name.startswith("distilledprag"))
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse)
            elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    visit(getattr(node, field, []))

    visit(ast.parse(file.read_text()).body)
    return {name for name in found if name in MODULES}


def test_there_are_modules_to_look_at():
    assert {"distilledprag.lora.weights", "distilledprag.pipeline", "distilledprag.cli.main"} <= MODULES.keys()


@pytest.mark.parametrize("room, forbidden", [
    ("base", ("documents", "retrieval", "generators", "evaluation", "engine", "gateway")),
    ("lora", ("documents", "retrieval", "generators", "distillation", "gateway", "pipeline", "prompts", "engine")),
    ("documents", ("pipeline", "generators", "distillation", "lora", "prompts", "base", "retrieval", "gateway", "engine")),
    ("retrieval", ("pipeline", "generators", "distillation", "lora", "prompts", "base", "gateway", "engine")),
    ("prompts", ("pipeline", "generators", "distillation", "documents", "retrieval")),
    ("generators", ("pipeline", "distillation", "evaluation", "baselines", "engine", "gateway", "documents", "retrieval")),
    ("distillation", ("pipeline", "evaluation", "baselines", "engine", "gateway", "documents", "retrieval")),
    ("baselines", ("pipeline", "evaluation", "engine", "gateway")),
    ("synthesis", ("pipeline", "distillation", "generators", "engine", "gateway")),
    ("http", ("gateway", "engine", "lora", "documents", "generators", "distillation", "evaluation", "pipeline")),
    ("engine", ("documents", "retrieval", "generators", "gateway", "distillation", "synthesis", "pipeline")),
    ("gateway", ("engine", "distillation", "synthesis", "evaluation")),
])  # fmt: skip
def test_a_room_does_not_import(room, forbidden):
    for name, file in MODULES.items():
        if f"{name}.".startswith(f"distilledprag.{room}."):
            for imported in imports(file, everywhere=True):
                assert imported.split(".")[1:2] not in [[other] for other in forbidden], f"{name} imports {imported}"


def test_lora_knows_nothing_of_the_base_but_where_models_keep_their_parts():
    allowed = {"distilledprag.base.architecture"}
    for name, file in MODULES.items():
        if f"{name}.".startswith("distilledprag.lora."):
            of_base = {
                imported for imported in imports(file, everywhere=True) if f"{imported}.".startswith("distilledprag.base.")
            }
            assert of_base - {"distilledprag.base"} <= allowed, f"{name} imports {of_base}"
    assert imports(MODULES["distilledprag.base.architecture"], everywhere=True) == {"distilledprag.errors"}


def test_one_file_says_where_models_keep_their_parts():
    spelled = re.compile(
        r"(?<!base_)model\.model\b|\.lm_head\b|\bembed_tokens\b|\bself_attn\b|[\"']mlp|\.mlp\b|get_output_embeddings|final_logit_softcapping"
    )
    for name, file in MODULES.items():
        if name != "distilledprag.base.architecture":
            found = spelled.search(file.read_text())
            assert not found, f"{name} spells {found.group()}; ask base/architecture.py instead" if found else ""


def test_nothing_imports_the_command_line():
    for name, file in MODULES.items():
        if name != "distilledprag.__main__" and not f"{name}.".startswith("distilledprag.cli."):
            bad = [i for i in imports(file, everywhere=True) if f"{i}.".startswith("distilledprag.cli.")]
            assert not bad, f"{name} imports {bad}"


def test_no_import_circles_between_modules():
    graph = {name: imports(file, everywhere=False) - {name} for name, file in MODULES.items()}
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in finished:
            for imported in graph[name]:
                walk(imported, (*path, name))
            finished.add(name)

    for name in graph:
        walk(name, ())


def test_no_machine_paths_in_the_tree():
    forbidden = ["/wo" + "rk/", "/tmp/ba" + "sh_jobs", "/ro" + "ot/"]
    for folder in ("src", "tests", "recipes", "docs", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".md", ".yaml", ".json", ".toml"}:
                assert not any(word in file.read_text() for word in forbidden), file
