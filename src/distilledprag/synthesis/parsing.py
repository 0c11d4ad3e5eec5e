"""Question-answer pairs out of an LLM's reply, whatever is around them and wherever it breaks off.

Repaired without a word: code fences, text before and after, thinking in tags, trailing commas, raw line breaks in strings,
curly or single quotes, other names for the keys, numbers and lists as answers, a missing full_answer, a list or single
objects instead of the wrapper, and a reply that was cut (the whole pairs before the cut count).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
_CURLY_QUOTES = str.maketrans("“”„‟", '""""')
_NAMES = {
    "q": "question",
    "query": "question",
    "a": "answer",
    "short_answer": "answer",
    "fullanswer": "full_answer",
    "long_answer": "full_answer",
    "complete_answer": "full_answer",
}


class QuestionAnswer(BaseModel):
    """One question with its short answer and the answer as a sentence (the answer itself if the LLM gave no sentence)."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    question: str
    answer: str = ""
    full_answer: str = ""

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        plain = {re.sub(r"[\s-]+", "_", str(key).strip().lower()): value for key, value in values.items()}
        return {_NAMES.get(key, key): value for key, value in plain.items()}

    @field_validator("question", "answer", "full_answer", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, list) and all(isinstance(part, (str, int, float)) for part in value):
            return ", ".join(map(str, value))
        return value

    @field_validator("question", "answer", "full_answer")
    @classmethod
    def _on_one_line(cls, value: str) -> str:
        return " ".join(value.split())

    @model_validator(mode="after")
    def _full_answer_is_there(self) -> QuestionAnswer:
        if not self.full_answer:
            object.__setattr__(self, "full_answer", self.answer)
        return self


@dataclass(frozen=True)
class Parsed:
    """pairs: in the reply's order; malformed: what stood where a pair should, shortened, with the reason."""

    pairs: list[QuestionAnswer] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


def parse_pairs(text: str) -> Parsed:
    """The pairs of a reply. Never raises; a reply without any pair gives an empty result."""
    text = _THINKING.sub(" ", text)
    parsed = Parsed()
    for candidate in _candidates(text):
        try:
            parsed.pairs.append(QuestionAnswer.model_validate(candidate))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "pair"
            parsed.malformed.append(f"{place}: {first['msg']}: {str(candidate)[:200]}")
    return parsed


def _candidates(text: str) -> list[Any]:
    for version in (_without_trailing_commas(text), _without_trailing_commas(text.translate(_CURLY_QUOTES))):
        found = [candidate for value in _objects(version) for candidate in _pairs_in(value)]
        if found:
            return found
    return _pairs_in(_python_literal(text))


def _without_trailing_commas(text: str) -> str:
    return _TRAILING_COMMA.sub(lambda match: match[1] or "", text)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that can be read, outermost first; inside one that cannot be read, the ones that can."""
    decoder = json.JSONDecoder(strict=False)
    position = 0
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
        else:
            yield value


def _python_literal(text: str) -> Any:
    """The reply as a Python literal (single quotes, None, True), or None. Literals only: nothing is run."""
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    end = max(text.rfind("}"), text.rfind("]"))
    if start < 0 or end < start:
        return None
    try:
        return ast.literal_eval(text[start : end + 1])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _pairs_in(value: Any) -> list[Any]:
    """The pair that `value` is, or the entries of the list that it is or wraps."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return []
    if any(_NAMES.get(str(key).strip().lower(), str(key).strip().lower()) == "question" for key in value):
        return [value]
    return next((inner for inner in value.values() if isinstance(inner, list)), [])
