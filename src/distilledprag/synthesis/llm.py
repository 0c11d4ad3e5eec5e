"""A request to an LLM, its reply, and the journal of replies that makes a run resumable.

A reply is in the journal before anything is made of it, so a run that was killed goes on from there. Pairs are parsed and
checked from the journal's replies, so a changed check costs no new request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from distilledprag.errors import InputError
from distilledprag.journal import Journal, Record
from distilledprag.synthesis.pairs import Message

REFUSED = ("content_filter", "refusal")  # values of `Reply.finish`
FIELDS = {"key", "purpose", "text", "prompt_tokens", "completion_tokens", "finish"}


@dataclass(frozen=True)
class Request:
    """purpose: `write`, `verify_open` or `verify_closed`; attempt: 1 for the second request with the same wording, and so on."""

    purpose: str
    messages: list[Message]
    temperature: float | None
    max_tokens: int
    attempt: int = 0

    def key(self, model: str) -> str:
        """A hash of everything that the reply depends on. A request whose key has been answered is never sent again."""
        content: list[Any] = [model, self.messages, self.temperature, self.max_tokens, self.attempt]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """text: what the model wrote ("" for null); tokens as its server counts them (None: not told); finish: `stop`, `length`,
    `refusal`, ..."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str = ""


class RequestFailed(Exception):
    """This one request got no answer; others may. The message is a reason that many requests can share."""


class LanguageModel(Protocol):
    """Anything that answers requests. Raises RequestFailed for one request, EndpointError when no request can succeed."""

    name: str

    async def reply(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...


class Replies:
    """The answered requests by key, kept in a journal. Use it as a context manager.

    Runs with other settings may share the file: a key says everything that a reply depends on. Raises as `Journal` does, and
    InputError for a line that is not a reply.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._journal = Journal(path, identity={"records": "synthesis replies", "version": 1})
        self._replies: dict[str, Reply] = {}

    def __enter__(self) -> Replies:
        self._journal.__enter__()
        try:
            for number, record in enumerate(self._journal, start=2):
                key, reply = self._entry(record, number)
                self._replies.setdefault(key, reply)
        except BaseException:
            self._journal.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> Reply:
        return self._replies[key]

    def __iter__(self) -> Iterator[Reply]:
        """Every reply, in the order of answering."""
        yield from self._replies.values()

    def add(self, key: str, purpose: str, reply: Reply) -> None:
        """Keep one reply; when this returns, it is on the disk."""
        self._journal.append({"key": key, "purpose": purpose, **asdict(reply)})
        self._replies[key] = reply

    def _entry(self, record: Record, number: int) -> tuple[str, Reply]:
        if set(record) != FIELDS or not isinstance(record["text"], str):
            raise InputError(
                f"{self.path}, line {number} is damaged (not a reply); delete the line (its request is sent again), or give "
                "another --journal"
            )
        return record["key"], Reply(record["text"], record["prompt_tokens"], record["completion_tokens"], record["finish"])
