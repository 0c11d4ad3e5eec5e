"""A request to an LLM and its reply: what the endpoint, the local model and the journal have in common."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

from distilledprag.synthesis.prompts import Message


@dataclass(frozen=True)
class Request:
    """purpose: `write`, `verify_open` or `verify_closed`; attempt: tells a second try of the same wording from the first."""

    purpose: str
    messages: list[Message]
    temperature: float | None
    max_tokens: int
    attempt: int = 0

    def key(self, model: str) -> str:
        """Names the request by everything that decides about its reply. The same key is never sent again once answered."""
        content: list[Any] = [model, self.messages, self.temperature, self.max_tokens, self.attempt]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """text: what the model wrote; tokens as the model's owner counts them (None: not told); finish: `stop`, `length`, ..."""

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
