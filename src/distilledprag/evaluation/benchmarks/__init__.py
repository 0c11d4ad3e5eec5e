"""Benchmarks in their owners' file formats -> one record. Users bring the files; nothing is downloaded.

Knows nothing about models, prompts or metrics.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distilledprag.errors import InputError
from distilledprag.evaluation.benchmarks.complex_web_questions import load_complex_web_questions
from distilledprag.evaluation.benchmarks.data_aug import AugmentedPassage, load_augmented_passages, load_data_aug
from distilledprag.evaluation.benchmarks.hotpotqa import load_hotpotqa
from distilledprag.evaluation.benchmarks.popqa import load_popqa
from distilledprag.evaluation.benchmarks.record import BenchmarkQuestion, first_per_subtask
from distilledprag.evaluation.benchmarks.two_wiki import load_two_wiki
from distilledprag.evaluation.benchmarks.xquad import load_xquad

LOADERS: dict[str, Callable[..., list[BenchmarkQuestion]]] = {
    "2wikimultihopqa": load_two_wiki,
    "hotpotqa": load_hotpotqa,
    "popqa": load_popqa,
    "complexwebquestions": load_complex_web_questions,
    "xquad": load_xquad,
    "data_aug": load_data_aug,
}


def load_benchmark(name: str, path: str | Path, **options: Any) -> list[BenchmarkQuestion]:
    """The questions of the benchmark `name` (a key of LOADERS) in the file or folder `path`, in the file's order. options: of
    its loader.

    Raises InputError for an unknown name or option, and naming the line or entry for a file that is not in its owners' format.
    """
    if name not in LOADERS:
        raise InputError(f'there is no benchmark "{name}"; choose one of {", ".join(LOADERS)}')
    known = list(inspect.signature(LOADERS[name]).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"the loader of {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return LOADERS[name](path, **options)


__all__ = [
    "LOADERS",
    "AugmentedPassage",
    "BenchmarkQuestion",
    "first_per_subtask",
    "load_augmented_passages",
    "load_benchmark",
    "load_complex_web_questions",
    "load_data_aug",
    "load_hotpotqa",
    "load_popqa",
    "load_two_wiki",
    "load_xquad",
]
