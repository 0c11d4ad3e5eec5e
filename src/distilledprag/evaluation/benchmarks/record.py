"""The one record that every benchmark becomes. Knows nothing about files, models or metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from distilledprag.documents.passages import Passage
from distilledprag.errors import InputError

WHOLE = "total"  # the subtask of a benchmark that has none; PRAG's files use the same word


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question and what is known about its answer.

    id: the benchmark's own, unique in its file. answers: all that count as right (one or more), the benchmark's main answer
    first, then aliases; verbatim, since metrics normalise by themselves. passages: those of the file, in its order; none where
    passages must be retrieved. gold_titles: titles of the passages that support the answer, where the benchmark names them.
    supporting_facts: (title, number of the sentence from 0), where it names them.
    """

    id: str
    benchmark: str
    subtask: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...] = ()
    gold_titles: tuple[str, ...] = ()
    supporting_facts: tuple[tuple[str, int], ...] = ()


def first_per_subtask(questions: Iterable[BenchmarkQuestion], count: int = 300) -> list[BenchmarkQuestion]:
    """The first `count` questions of each subtask, in the file's order: the protocol of PRAG and DistilledPRAG (300).

    A subtask with fewer questions gives all it has. Raises InputError for a count below 1.
    """
    if count < 1:
        raise InputError(f"the first {count} questions of each subtask were asked for; ask for at least 1")
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for question in questions:
        key = (question.benchmark, question.subtask)
        taken[key] += 1
        if taken[key] <= count:
            chosen.append(question)
    return chosen
