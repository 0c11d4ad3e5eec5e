"""2WikiMultihopQA (Ho et al. 2020), in the form of `dev.json`, with aliases from `id_aliases.json` where that file is given."""

from __future__ import annotations

import json
from pathlib import Path

from distilledprag.documents.readers.text import decode
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmarks.multihop import load_multihop
from distilledprag.evaluation.benchmarks.reading import Entry
from distilledprag.evaluation.benchmarks.record import BenchmarkQuestion

TYPES = ("comparison", "bridge_comparison", "inference", "compositional")
REMEDY = "get dev.json from github.com/Alab-NII/2wikimultihop again (the test file has no answers)"
ALIASES_REMEDY = "get id_aliases.json from github.com/Alab-NII/2wikimultihop (data_ids) again"


def load_two_wiki(file: str | Path, aliases: str | Path | None = None) -> list[BenchmarkQuestion]:
    """The questions, each with its ten paragraphs; subtasks: the four types.

    aliases: `id_aliases.json`. With it, an answer that has an `answer_id` may also be given by that entity's aliases and
    demonyms, as in the owners' evaluation script 1.1. (PRAG takes the aliases only, in place of the written answer.)
    Raises InputError naming the entry or line.
    """
    names = _read_aliases(Path(aliases)) if aliases is not None else None
    return load_multihop(Path(file), "2wikimultihopqa", TYPES, REMEDY, names)


def _read_aliases(file: Path) -> dict[str, tuple[str, ...]]:
    """Lines of `{Q_id, aliases, demonyms}` -> other names, by Wikidata id."""
    if not file.is_file():
        raise InputError(f"{file} does not exist; check the path, or {ALIASES_REMEDY}")
    found = {}
    for number, line in enumerate(decode(file).split("\n"), start=1):
        if line.strip():
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise InputError(f"{file}, line {number} is not JSON ({error}); {ALIASES_REMEDY}") from error
            entry = Entry(fields, f"{file}, line {number}", ALIASES_REMEDY)
            found[entry.text("Q_id")] = entry.texts("aliases") + entry.texts("demonyms")
    return found
