"""Training contexts of the reader: passages, and the questions that they answer, varied so that the reader becomes robust.

    rows {"documents": [{"title", "text"}], "question", "answers", "type", "source"}  ->  Context

Rows with the same passages become one context with several questions. What changes from visit to visit: distractor passages
of other contexts, the passages' order, short cuts of long passages, swapped answers (a number, date or name replaced
everywhere in the passage, so that memory cannot answer) and questions that nothing in the passages answers.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilledprag.errors import InputError
from distilledprag.json_lines import json_rows
from distilledprag.words import sentences, titled

NOT_FOUND = "not in the documents"
LONGEST_ANSWER = 80  # characters; rows with a longer answer are left out of training
_NUMBER = re.compile(r"[$€£]?\d[\d,.]*%?")
_MONTHS = "January February March April May June July August September October November December".split()
_DATE = re.compile(rf"(?:\d{{1,2}} )?(?:{'|'.join(_MONTHS)})(?: \d{{1,2}},?)?(?: \d{{4}})?")
_NAME = re.compile(r"[A-Z][\w'’-]+(?: (?:of |the |de |von |van )?[A-Z][\w'’-]+){0,3}")


@dataclass(frozen=True)
class Context:
    """passages: plain texts. questions: (question, answer) pairs. joint: all passages are needed (multi-hop)."""

    passages: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    source: str
    joint: bool = False


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file, gzipped or not. Raises InputError naming file and line for what is no such row."""
    for number, row in json_rows(path):
        if not is_question_row(row):
            raise InputError(f"{path}, line {number}: not a row with documents, question and answers")
        yield row


def is_question_row(row: Any) -> bool:
    """Whether it is `{"documents": [{"text", "title"?}], "question", "answers"}`, of texts."""
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        return False
    documents, answers = row.get("documents"), row.get("answers")
    return (
        isinstance(documents, list)
        and isinstance(answers, list)
        and all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in documents)
        and all(isinstance(one.get("title", ""), str | None) for one in documents)
    )


def passage_text(document: dict[str, Any]) -> str:
    """A passage as it is read: the title first, where there is one that the text does not begin with."""
    return titled(document.get("title") or "", document["text"])


def question_of(row: dict[str, Any], longest_answer: int = LONGEST_ANSWER) -> tuple[tuple[str, ...], str, str] | None:
    """A row's passages, its question and its first answer; None where it has no answer of at most so many characters."""
    answer = next((str(text).strip() for text in row["answers"] if str(text).strip()), "")
    if not answer or len(answer) > longest_answer:
        return None
    return tuple(passage_text(document) for document in row["documents"]), row["question"].strip(), answer


def load_contexts(path: Path, *, longest_answer: int = LONGEST_ANSWER) -> list[Context]:
    """Contexts of one file; rows without an answer, or with one of more characters than `longest_answer`, are left out."""
    grouped: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in read_rows(path):
        if found := question_of(row, longest_answer):
            passages, question, answer = found
            grouped.setdefault(passages, []).append((question, answer))
    source = path.name.split(".")[0]
    return [Context(passages, tuple(pairs), source, len(passages) > 1) for passages, pairs in grouped.items()]


def data_hash(paths: Sequence[Path]) -> str:
    """Short hash of the files' bytes, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class ContextMixer:
    """Training contexts by number of the visit, without end: every pass over the contexts has an order of its own.

    weights: how often a source's contexts are seen for each time the others' are (1 for sources not named).
    """

    def __init__(
        self, contexts: Sequence[Context], seed: int, weights: dict[str, float], *, questions_per_context: int = 6
    ) -> None:
        self.seed = seed
        self._contexts = list(contexts)
        self._weights, self._questions = weights, questions_per_context
        self._single = [context for context in contexts if not context.joint]
        self._names = sorted({a for c in contexts for _, a in c.questions if _NAME.fullmatch(a)})
        self._epoch, self._begin, self._order = 0, 0, self._ordered(0)

    def visit(self, number: int) -> Context:
        """The context of visit `number` (from 0); a pure function of it, of the seed and of the contexts."""
        if number < self._begin:
            self._epoch, self._begin, self._order = 0, 0, self._ordered(0)
        while number >= self._begin + len(self._order):
            self._epoch, self._begin = self._epoch + 1, self._begin + len(self._order)
            self._order = self._ordered(self._epoch)
        context = self._contexts[self._order[number - self._begin]]
        return self._varied(context, random.Random(f"visit/{self.seed}/{number}"))

    def _ordered(self, epoch: int) -> list[int]:
        draw = random.Random(f"epoch/{self.seed}/{epoch}")
        order = []
        for index, context in enumerate(self._contexts):
            weight = self._weights.get(context.source, 1.0)
            order += [index] * (int(weight) + (draw.random() < weight % 1))
        draw.shuffle(order)
        return order

    def _varied(self, context: Context, draw: random.Random) -> Context:
        pairs = list(context.questions)
        draw.shuffle(pairs)
        context = replace(context, questions=tuple(pairs[: self._questions]))
        if draw.random() < 0.25:
            context = self._swapped(context, draw)
        if not context.joint and draw.random() < 0.3:
            context = self._shortened(context, draw)
        passages, questions = list(context.passages), list(context.questions)
        room = 4 - len(passages)
        if room > 0 and self._single and draw.random() < 0.45:
            passages += self._distractors(context, draw.randint(1, min(2, room) if context.joint else min(3, room)), draw)
            draw.shuffle(passages)
        if self._single and draw.random() < 0.12:
            other = draw.choice(self._single)
            question, answer = draw.choice(other.questions)
            if other is not context and not any(answer.lower() in passage.lower() for passage in passages):
                questions.append((question, NOT_FOUND))
        return replace(context, passages=tuple(passages), questions=tuple(questions))

    def _distractors(self, context: Context, count: int, draw: random.Random) -> list[str]:
        """Passages of other contexts, drawn at random, that hold none of this context's answers."""
        found: list[str] = []
        answers = [answer.lower() for _, answer in context.questions]
        for _ in range(count * 4):
            other = draw.choice(self._single)
            passage = draw.choice(other.passages)
            if len(passage.split()) < 220 and not any(a in passage.lower() for a in answers) and passage not in context.passages:
                found.append(passage)
            if len(found) == count:
                break
        return found

    def _shortened(self, context: Context, draw: random.Random) -> Context:
        """A few sentences around one answer; the questions that these still answer word for word."""
        parts = sentences(context.passages[0])
        holding = [i for i, part in enumerate(parts) if any(a.lower() in part.lower() for _, a in context.questions)]
        if len(parts) < 3 or not holding:
            return context
        centre, width = draw.choice(holding), draw.choice((1, 1, 2, 3))
        first = max(0, centre - draw.randint(0, width - 1))
        text = " ".join(parts[first : first + width])
        kept = tuple((q, a) for q, a in context.questions if a.lower() in text.lower())
        return replace(context, passages=(text,), questions=kept) if kept else context

    def _swapped(self, context: Context, draw: random.Random) -> Context:
        """One answer replaced by another of its kind, in the passages and in every answer."""
        candidates = [a for _, a in context.questions if len(a) > 1 and any(a in p for p in context.passages)]
        if not candidates:
            return context
        old = draw.choice(candidates)
        new = self._another(old, draw)
        if new is None:
            return context
        pattern = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
        passages = tuple(pattern.sub(lambda _: new, passage) for passage in context.passages)
        questions = tuple((q, pattern.sub(lambda _: new, a)) for q, a in context.questions if not pattern.search(q))
        return replace(context, passages=passages, questions=questions) if questions else context

    def _another(self, old: str, draw: random.Random) -> str | None:
        """Another date, number or name (a code in a fifth of the cases); None where `old` is of no such kind."""
        if _DATE.fullmatch(old):
            text = re.sub(rf"({'|'.join(_MONTHS)})", lambda _: draw.choice(_MONTHS), old)
            text = re.sub(r"\b\d{4}\b", lambda _: str(draw.randint(1500, 2030)), text)
            return re.sub(r"\b\d{1,2}\b", lambda _: str(draw.randint(1, 28)), text)
        if _NUMBER.fullmatch(old):
            digits = iter(range(100))
            return re.sub(r"\d", lambda _: str(draw.randint(1 if next(digits) == 0 else 0, 9)), old)
        if _NAME.fullmatch(old):
            if draw.random() < 0.2:
                letters = "".join(draw.choices("ABCDEFGHJKLMNPRSTVWXZ", k=draw.randint(1, 4)))
                return f"{letters}{draw.choice('-/ ')}{draw.randint(10, 99999)}" + draw.choice(("", f"-{draw.choice('ABCX')}"))
            words = len(old.split())
            for _ in range(8):
                new = draw.choice(self._names)
                if abs(len(new.split()) - words) <= 1:
                    return new
        return None
