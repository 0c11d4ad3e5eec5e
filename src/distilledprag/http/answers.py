"""Answers as they are written, in the shapes that OpenAI's clients read: whole, and as server-sent events.

    Generation (pieces of all choices, mixed) --CHAT or TEXT--> one record, or events of a stream that end with [DONE]

responses.py makes the shapes of /v1/responses from the same Generation.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from distilledprag.errors import DistilledPRAGError
from distilledprag.http.errors import Explain, error_record

DONE = b"data: [DONE]\n\n"
BYTES = "bytes:"
_BYTES = re.compile(BYTES + r"(\\x[0-9a-f]{2}){1,64}")

Record = dict[str, Any]


@dataclass(frozen=True)
class TokenLogprob:
    """A written token: its text, its log probability, and the likeliest tokens at its place with theirs. bytes: of a token
    that ends within a character its text does not say them."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What comes next in one choice. tokens: those of the text, where probabilities are asked for; finish: why the choice has
    ended, with its last piece."""

    text: str
    choice: int = 0
    tokens: tuple[TokenLogprob, ...] = ()
    finish: str | None = None


@dataclass
class Generation:
    """An answer that is being written, of `choices` choices. model: the name that the answer tells; usage: (tokens read, tokens
    written), right when all pieces have come; more: fields of a server's own, for a whole answer or for a stream's first and last
    event; logprobs: whether pieces have `tokens`."""

    model: str
    pieces: AsyncGenerator[Piece, None]
    usage: Callable[[], tuple[int, int]]
    choices: int = 1
    logprobs: bool = False
    more: Callable[[], Record] = dict


@dataclass
class Choice:
    """One choice as far as it is written."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish: str = "stop"

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish


class Form(Protocol):
    """How one of OpenAI's interfaces writes an answer. prefix: of ids; whole, part: its `object` of an answer and of an event."""

    prefix: str
    whole: str
    part: str

    def choice(self, choice: Choice, logprobs: Record | None) -> Record:
        """Of a whole answer."""
        ...

    def opening(self) -> Record | None:
        """Of a stream's first event for a choice; None: it has none."""
        ...

    def delta(self, text: str, logprobs: Record | None) -> Record:
        """Of a further event."""
        ...

    def logprobs(self, tokens: Sequence[TokenLogprob], begin: int) -> Record:
        """begin: characters of the answer before these tokens."""
        ...


class _Chat:
    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def choice(self, choice: Choice, logprobs: Record | None) -> Record:
        return {"message": {"role": "assistant", "content": choice.text, "refusal": None}, "logprobs": logprobs}

    def opening(self) -> Record | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, text: str, logprobs: Record | None) -> Record:
        return {"delta": {"content": text} if text else {}, "logprobs": logprobs}

    def logprobs(self, tokens: Sequence[TokenLogprob], begin: int) -> Record:
        return {"content": [chat_logprob(token) for token in tokens], "refusal": None}


class _Text:
    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def choice(self, choice: Choice, logprobs: Record | None) -> Record:
        return {"text": choice.text, "logprobs": logprobs}

    def opening(self) -> Record | None:
        return None

    def delta(self, text: str, logprobs: Record | None) -> Record:
        return {"text": text, "logprobs": logprobs}

    def logprobs(self, tokens: Sequence[TokenLogprob], begin: int) -> Record:
        offsets = []
        for token in tokens:
            offsets.append(begin)
            begin += len(token.token)
        return {
            "tokens": [text_name(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{text_name(other): other.logprob for other in token.top} for token in tokens],
            "text_offset": offsets,
        }


CHAT: Form = _Chat()
TEXT: Form = _Text()


def text_name(token: TokenLogprob) -> str:
    """A token as text completions name it, as OpenAI's do: `bytes:\\xe2\\x82` where it ends within a character."""
    if token.bytes is None or bytes(token.bytes) == token.token.encode("utf-8", "replace"):
        return token.token
    return BYTES + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def named_token(name: str, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    """The token that `text_name` named so."""
    written = name.encode("utf-8", "replace")
    if _BYTES.fullmatch(name):
        written = bytes.fromhex(name.removeprefix(BYTES).replace("\\x", ""))
    return TokenLogprob(written.decode("utf-8", "replace"), logprob, tuple(written), top)


def chat_logprob(token: TokenLogprob) -> Record:
    """A token as chat completions and responses tell it."""
    return _told(token) | {"top_logprobs": [_told(other) for other in token.top]}


def _told(token: TokenLogprob) -> Record:
    return {"token": token.token, "logprob": token.logprob, "bytes": None if token.bytes is None else list(token.bytes)}


def frame(prefix: str, kind: str, model: str) -> Record:
    """What every answer begins with, and every event of a stream. kind: OpenAI's `object`."""
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}


def model_record(name: str, created: int, **more: Any) -> Record:
    """An entry of /v1/models. created: Unix seconds."""
    return {"id": name, "object": "model", "created": created, "owned_by": "distilledprag", **more}


def usage_record(read: int, written: int) -> Record:
    """Tokens of the prompt and of all choices."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def event(record: Record, name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


async def gathered(generation: Generation) -> list[Choice]:
    """All choices, whole."""
    choices = [Choice() for _ in range(generation.choices)]
    async with contextlib.aclosing(generation.pieces) as pieces:
        async for piece in pieces:
            choices[piece.choice].add(piece)
    return choices


async def whole_record(generation: Generation, form: Form) -> Record:
    """The answer as one JSON object. Raises what `pieces` raises."""
    choices = await gathered(generation)
    told = []
    for number, choice in enumerate(choices):
        logprobs = form.logprobs(choice.tokens, 0) if generation.logprobs else None
        told.append({"index": number, **form.choice(choice, logprobs), "finish_reason": choice.finish})
    record = frame(form.prefix, form.whole, generation.model)
    return record | {"choices": told, "usage": usage_record(*generation.usage())} | generation.more()


async def stream(generation: Generation, form: Form, wants_usage: bool, explain: Explain) -> AsyncIterator[bytes]:
    """The answer as events. What goes wrong in the middle is the last event, and [DONE] does not follow."""
    head = frame(form.prefix, form.part, generation.model)
    begins = [0] * generation.choices  # characters given out
    unfinished = generation.choices

    def told(number: int, fields: Record, finish: str | None = None, more: bool = False) -> bytes:
        choice = {"index": number, **fields, "finish_reason": finish}
        return event(head | {"choices": [choice]} | (generation.more() if more else {}))

    try:
        if opening := form.opening():
            for number in range(generation.choices):
                yield told(number, opening, more=number == 0)
        async with contextlib.aclosing(generation.pieces) as pieces:
            async for piece in pieces:
                logprobs = form.logprobs(piece.tokens, begins[piece.choice]) if generation.logprobs and piece.tokens else None
                begins[piece.choice] += len(piece.text)
                if piece.text or logprobs:
                    yield told(piece.choice, form.delta(piece.text, logprobs))
                if piece.finish:
                    unfinished -= 1
                    yield told(piece.choice, form.delta("", None), piece.finish, more=not unfinished)
        if wants_usage:
            yield event(head | {"choices": [], "usage": usage_record(*generation.usage())})
        yield DONE
    except DistilledPRAGError as error:
        yield event(error_record(error, explain)[1])
