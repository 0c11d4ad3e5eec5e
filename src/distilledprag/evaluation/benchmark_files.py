"""The record that every benchmark becomes, and strict reading of benchmark files: every error names the file, the entry, what is
wrong with it and what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import Passage
from distilledprag.encodings import decode
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


class Entry:
    """One object of a benchmark file. place: the file and the entry's number; remedy: what the user should do about it."""

    def __init__(self, fields: Any, place: str, remedy: str) -> None:
        self.place, self.remedy = place, remedy
        if not isinstance(fields, dict):
            raise self.error(f"is {_kind(fields)}, not an object")
        self.fields: dict[str, Any] = fields

    def error(self, problem: str) -> InputError:
        """The error to raise about this entry."""
        return InputError(f"{self.place} {problem}; {self.remedy}")

    def value(self, key: str) -> Any:
        """The field. Raises InputError when it is missing."""
        if key not in self.fields:
            raise self.error(f'has no "{key}"')
        return self.fields[key]

    def text(self, key: str) -> str:
        """The field, a text with more than white space, stripped."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self.error(f'has {_kind(value)} as "{key}", not a text')
        if not value.strip():
            raise self.error(f'has an empty "{key}"')
        return value.strip()

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """The field, one of `allowed`."""
        value = self.text(key)
        if value not in allowed:
            raise self.error(f'has "{key}": "{value}", which is none of {", ".join(allowed)}')
        return value

    def identifier(self, *keys: str) -> str:
        """The first of the fields that is there: a text or a whole number, as text."""
        key = next((key for key in keys if key in self.fields), keys[0])
        value = self.value(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def items(self, key: str) -> list[Any]:
        """The field, a list."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self.error(f'has {_kind(value)} as "{key}", not a list')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The field, a list of texts, each once and in order; blank ones are left out."""
        values = self.items(key)
        for value in values:
            if not isinstance(value, str):
                raise self.error(f'has {_kind(value)} in "{key}", where only texts belong')
        return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))

    def children(self, key: str, name: str) -> list[Entry]:
        """The field, a list of objects; errors call each one `name` and its number."""
        place = self.place.rstrip(",")
        values = enumerate(self.items(key), start=1)
        return [Entry(value, f"{place}, {name} {number},", self.remedy) for number, value in values]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]


def read_json(file: Path, remedy: str) -> Any:
    """What the file holds. Raises InputError when it is missing, not text or not JSON."""
    if not file.is_file():
        raise InputError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; check the path, or {remedy}")
    try:
        return json.loads(decode(file.read_bytes(), str(file))[0])
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not JSON ({error}), perhaps cut off; {remedy}") from error


def read_entries(file: Path, remedy: str) -> list[Entry]:
    """The objects of a file that holds a list of them, at least one. Raises InputError."""
    values = read_json(file, remedy)
    if not isinstance(values, list):
        raise InputError(f"{file} holds {_kind(values)}, not a list of questions; {remedy}")
    if not values:
        raise InputError(f"{file} holds no questions; {remedy}")
    return [Entry(value, f"{file}, entry {number},", remedy) for number, value in enumerate(values, start=1)]


def with_unique_ids(file: Path, questions: Iterable[BenchmarkQuestion], remedy: str) -> list[BenchmarkQuestion]:
    """The questions as a list. Raises InputError when two have the same id (results are kept by id)."""
    seen: dict[str, int] = {}
    found = []
    for number, question in enumerate(questions, start=1):
        if question.id in seen:
            raise InputError(f'{file}, entry {number}, has the id "{question.id}" of entry {seen[question.id]}; {remedy}')
        seen[question.id] = number
        found.append(question)
    return found
