"""The walls of the house: who may import whom, what tests may touch, and words that do not belong in the tree."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "distilledprag"
FILES = sorted(SOURCES.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

METHOD = ("base", "prompts", "lora", "generators", "distillation", "pipeline")
AROUND = (
    "documents", "retrieval", "synthesis", "baselines", "evaluation", "audit",
    "http", "engine", "gateway", "integrations", "cli",
)  # fmt: skip
LEAF = "distilledprag.base.architecture"  # where models keep their parts: every room of the method may ask, lora/ too
SHARED = (
    "errors",
    "files",
    "sqlite_file",
    "words",
    "encodings",
    "json_lines",
    "journal",
)  # small tools that every room may use


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def room(module: str) -> str:
    """`distilledprag.engine.web.shell` -> `engine`; the package itself -> an empty string."""
    return f"{module}..".split(".")[1]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of ours that a module imports, inside functions too. Imports for type checkers only do not count."""
    return frozenset(name for name in _imported(tree(MODULES[module]).body) if name in MODULES) - {module}


def _imported(nodes: list[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilledprag"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` needs the module; `from module import name` the module that has the name.
            yield from (name if name in MODULES else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imported(node.orelse)
        else:
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _imported(getattr(node, field, []))


def broken(rooms: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{name} imports {other}"
        for name in MODULES
        if room(name) in rooms
        for other in sorted(imports(name))
        if room(other) in forbidden and room(other) != room(name) and other != LEAF
    ]


def test_every_folder_is_a_known_room():
    assert {folder.name for folder in SOURCES.iterdir() if list(folder.glob("*.py"))} <= {*METHOD, *AROUND}
    assert {"distilledprag.lora.weights", "distilledprag.pipeline", "distilledprag.cli.main"} <= MODULES.keys()


def test_the_method_imports_nothing_from_around_it():
    assert not broken(tuple(name for name in METHOD if name != "pipeline"), AROUND)


def test_the_pipeline_adds_retrieval_to_the_method_and_nothing_else():
    assert not broken(("pipeline",), tuple(name for name in AROUND if name not in ("documents", "retrieval")))


@pytest.mark.parametrize(("rooms", "forbidden"), [
    (("lora",), ("base", "prompts", "generators", "distillation", "pipeline")),
    (("base", "prompts"), ("generators", "distillation", "pipeline")),
    (("generators",), ("distillation", "pipeline")),
    (("distillation",), ("pipeline",)),
    (("documents",), (*METHOD, "retrieval", "http", "engine", "gateway", "evaluation", "baselines")),
    (("retrieval",), (*METHOD, "http", "engine", "gateway", "evaluation", "baselines")),
    (("synthesis",), ("pipeline", "distillation", "generators", "http", "engine", "gateway")),
    (("baselines",), ("evaluation", "audit", "http", "engine", "gateway")),
    (("evaluation",), ("audit", "http", "engine", "gateway")),
    (("audit",), ("http", "engine", "gateway")),
    (("http",), (*METHOD, "documents", "retrieval", "engine", "gateway", "evaluation")),
    (("engine",), ("generators", "distillation", "pipeline", "documents", "retrieval", "synthesis", "evaluation", "gateway")),
    (("gateway",), ("distillation", "synthesis", "evaluation", "baselines", "engine")),
    (("integrations",), (*METHOD, "documents", "retrieval", "engine", "gateway", "evaluation")),
    (tuple(name for name in (*METHOD, *AROUND) if name != "cli"), ("cli",)),
    (SHARED, (*METHOD, *AROUND)),
], ids=lambda value: "+".join(value) if len(value) < 3 else f"{value[0]}...")  # fmt: skip
def test_a_room_does_not_import(rooms, forbidden):
    assert not broken(rooms, forbidden)


def test_one_file_says_where_models_keep_their_parts():
    assert imports(LEAF) == {"distilledprag.errors"}
    spelled = re.compile(
        r"(?<!base_)model\.model\b|\.lm_head\b|\bembed_tokens\b|\bself_attn\b|[\"']mlp|\.mlp\b|get_output_embeddings|logit_softcapping"
    )
    found = {name: spelled.findall(file.read_text()) for name, file in MODULES.items() if name != LEAF}
    assert not {name: words for name, words in found.items() if words}, "ask base/architecture.py instead"


def packages(module: str, seen: set[str]) -> set[str]:
    """Names of other projects' packages that importing `module` imports, by itself and by what it imports of ours."""
    found: set[str] = set()
    parents = {module.rsplit(".", count)[0] for count in range(1, module.count(".") + 1)}
    statements = [node for node in tree(MODULES[module]).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in statements:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        found |= {name.partition(".")[0] for name in names}
    for other in (parents | {name for name in _imported(statements) if name in MODULES}) - seen:
        seen.add(other)
        found |= packages(other, seen)
    return found - sys.stdlib_module_names - {"distilledprag"}


def test_the_readers_training_needs_few_packages():
    """scripts/train_reader.py runs on a lent machine on which little is installed."""
    needed = packages("distilledprag.distillation.reader_training", set())
    assert needed == {"jinja2", "regex", "safetensors", "tokenizers", "torch", "transformers"}  # regex: transformers needs it too


def test_what_needs_no_model_imports_no_torch():
    for module in (
        "cli.main",
        "cli.ask",
        "cli.checkpoints",
        "cli.engine",
        "cli.gateway",
        "cli.search",
        "cli.serve",
        "cli.store",
        "cli.synthesize",
    ):
        assert not packages(f"distilledprag.{module}", set()) & {"torch", "transformers"}, module
    assert "torch" in packages("distilledprag.pipeline", set())


def test_no_import_circles_function_level_imports_included():
    finished: set[str] = set()
    circles: list[str] = []

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in finished:
            for imported in sorted(imports(name)):
                # The package's own __init__ hands DistilledPRAG and LoraWeights out; who asks it for its version gets no circle.
                if name != "distilledprag":
                    walk(imported, (*path, name))
            finished.add(name)

    for name in MODULES:
        walk(name, ())
    assert not circles


def private_names() -> set[str]:
    """Names with one leading underscore that the package defines: functions, classes, attributes, constants."""
    found: set[str] = set()
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return {name for name in found if name.startswith("_") and not name.startswith("__") and name != "_"}


def private_uses(file: Path, private: set[str]) -> list[str]:
    """Where a test file reaches for one of `private`: `x._name`, an import of it, or its name given to setattr and the like."""
    found = []
    for node in ast.walk(tree(file)):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilledprag"):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("setattr", "getattr"):
            names = [str(a.value).rpartition(".")[2] for a in node.args if isinstance(a, ast.Constant)]
        found += [f"{file.relative_to(ROOT)}:{node.lineno} {name}" for name in names if name in private]
    return found


def test_tests_do_not_reach_into_private_members():
    private = private_names()
    assert len(private) > 50
    assert not [use for file in TESTS for use in private_uses(file, private)]


def test_no_machine_paths_in_the_tree():
    forbidden = ["/wo" + "rk/", "/tmp/ba" + "sh_jobs", "/ro" + "ot/"]
    for folder in ("src", "tests", "recipes", "docs", "examples", "benchmarks", "scripts", "docker", ".github"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".toml"}:
                assert not any(word in file.read_text() for word in forbidden), file
