"""What pyproject.toml declares: the dependencies of each extra, and which of our modules need one."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

# Rooms that cannot be imported without one of these extras. All other modules come with the core.
ROOMS = {
    **{
        f"distilledprag.documents.readers.{name}": {"documents"}
        for name in (
            *("epub", "html", "mail", "opendocument", "packages", "pdf", "pdf_layout", "pdf_page", "pdf_tables", "rtf"),
            *("pictures", "slides", "spreadsheet", "visibility", "word"),
        )
    },
    "distilledprag.http": {"engine", "gateway"},
    "distilledprag.engine": {"engine"},
    "distilledprag.gateway": {"gateway"},
    **{
        f"distilledprag.{name}": {"evaluate"}
        for name in (
            "audit",
            "cli.evaluate",
            *(f"evaluation.{part}" for part in ("overlap", "questions", "runner", "statistics", "summary")),
        )
    },
    "distilledprag.documents.postgres": {"postgres"},
    "distilledprag.engine.vllm_plugin_model": set(),  # in vLLM's own environment only
    "distilledprag.integrations.langchain": {"langchain"},
    "distilledprag.integrations.llama_index": {"llama-index"},
    "distilledprag.evaluation.harness": {"lm-eval"},
}


def granted(extra: str) -> set[str]:
    """The extra and those it refers to."""
    found = {extra}
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            found.update(*(granted(other) for other in requirement.extras))
    return found


def requirements(extra: str | None) -> list[Requirement]:
    """Dependencies of the core, and those of an extra."""
    texts = [*PROJECT["dependencies"], *(text for name in (granted(extra) if extra else ()) for text in EXTRAS[name])]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != PROJECT["name"]]


def installed_with(extra: str | None) -> set[str]:
    """Distributions that the core and an extra bring, by the metadata of those that are installed here."""
    found: set[str] = set()
    waiting = requirements(extra)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        try:
            needed = [] if name in found else [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            needed = []  # for another system than this one
        found.add(name)
        for other in needed:
            if other.marker is None or any(other.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append(other)
    return found


def modules(extra: str | None) -> list[str]:
    """Our modules that the core and an extra allow to be imported."""
    names = []
    for file in sorted((ROOT / "src" / "distilledprag").rglob("*.py")):
        parts = file.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        wanted = [extras for room, extras in ROOMS.items() if f"{name}.".startswith(f"{room}.")]
        if name != "distilledprag.__main__" and all(extras & (granted(extra) if extra else set()) for extras in wanted):
            names.append(name)
    return names
