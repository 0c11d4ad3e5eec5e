"""/v1/responses, OpenAI's newer interface, over the same path as chat: its request becomes a chat request, the answer's pieces
its events. Nothing is stored, so no response can be continued by its id: send the conversation.

    body --chat_fields--> chat request -> ... -> Generation --response_record or response_events--> answer
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from distilledprag.errors import DistilledPRAGError
from distilledprag.http.answers import Choice, Generation, Record, chat_logprob, event, gathered
from distilledprag.http.bodies import body_of_type
from distilledprag.http.errors import Explain, RequestError, error_record

# A response's parameters under the names that a chat request has.
_RENAMED = {"max_output_tokens": "max_completion_tokens"}
_OF_CHAT = ("messages", "max_tokens", "max_completion_tokens", "n", "response_format", "logprobs", "stop")
# Parameters that are not served, and the values under which they do nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "previous_response_id": (),
    "prompt": (),
    "truncation": ("disabled", "auto"),  # "auto": nothing is cut where everything fits, and a gateway leaves out passages anyway
    "reasoning": ({}, {"effort": None, "summary": None}, {"effort": None}, {"summary": None}, {"effort": "none"}),
    "moderation": (),
    "context_management": ([],),
    "include": ([], ["message.output_text.logprobs"]),
}
_IGNORED = ("stream_options", "max_tool_calls")  # events are padded by nobody here, and there are no tools
BODY = body_of_type({  # for a route's `openapi_extra`
    "application/json": {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": {"type": "string"},
            "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
            "instructions": {"type": "string"},
            "max_output_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "text": {"type": "object"},
            "stream": {"type": "boolean"},
        },
    }
})  # fmt: skip
_TEXTS = ("input_text", "output_text", "text")


def chat_fields(fields: Any) -> Record:
    """The body of a chat request that asks the same. Fields that only one server knows are kept. Raises RequestError."""
    if not isinstance(fields, dict):
        raise RequestError("the request's body must be a JSON object")
    made: Record = {"messages": _messages(fields)}
    for name, value in fields.items():
        if value is None or name in ("input", "instructions", *_IGNORED):
            continue
        if name in _WITHOUT_EFFECT:
            if value not in _WITHOUT_EFFECT[name]:
                raise RequestError(f"{name!r} is not served here; leave it out", code="unsupported_parameter", param=name)
        elif name == "text":
            if response_format := _response_format(value):
                made["response_format"] = response_format
        elif name in _OF_CHAT:
            raise RequestError(f"{name!r} belongs to chat completions, not to responses", param=name)
        else:
            made[_RENAMED.get(str(name), str(name))] = value
    if made.get("top_logprobs") or fields.get("include"):
        made["logprobs"] = True
    return made


def named_as_sent(error: RequestError) -> RequestError:
    """An error of the chat request with `param` as the response's request names that field."""
    if error.param is not None:
        name, dot, rest = error.param.partition(".")
        names = {"messages": "input", "max_completion_tokens": "max_output_tokens", "max_tokens": "max_output_tokens",
                 "response_format": "text.format"}  # fmt: skip
        error.param = names.get(name, name) + dot + rest
    return error


def _messages(fields: Mapping[str, Any]) -> list[Record]:
    instructions, given = fields.get("instructions"), fields.get("input")
    if instructions is not None and not isinstance(instructions, str):
        raise RequestError("instructions must be text", param="instructions")
    messages: list[Record] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise RequestError("input must be text, or a list of messages", param="input")
    for number, item in enumerate(given):
        place = f"input.{number}"
        if not isinstance(item, dict) or item.get("type", "message") not in ("message", "reasoning"):
            raise RequestError("only messages are read: no files, images or tools", param=place)
        if item.get("type") == "reasoning":  # a client sends back the whole output of another model
            continue
        content = item.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in _TEXTS]
            texts = [part for part in parts if isinstance(part, str)]
            if len(texts) < len(content):
                raise RequestError("only text is read: parts of the types input_text and output_text", param=place)
            content = "".join(texts)
        messages.append({"role": item.get("role"), "content": content})
    return messages


def _response_format(text: Any) -> Record | None:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text, dict) or not isinstance(wanted, (dict, type(None))):
        raise RequestError("text must be an object with the field format", param="text")
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: value for name, value in wanted.items() if name != "type"}}
    return {"type": wanted.get("type")}


class _Response:
    """One response while it is written. asked: the body as it was sent."""

    def __init__(self, generation: Generation, asked: Mapping[str, Any]) -> None:
        self.generation, self.asked = generation, asked
        self.created = int(time.time())
        self.id, self.item_id = f"resp_{secrets.token_hex(24)}", f"msg_{secrets.token_hex(24)}"

    def part(self, choice: Choice) -> Record:
        logprobs = [chat_logprob(token) for token in choice.tokens]
        return {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": logprobs}

    def item(self, choice: Choice | None, status: str) -> Record:
        content = [] if choice is None else [self.part(choice)]
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def record(self, status: str, choice: Choice | None = None, error: Record | None = None) -> Record:
        asked = self.asked
        usage = None
        if choice is not None:
            read, written = self.generation.usage()
            usage = {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + written,
            }
        record: Record = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "model": self.generation.model,
            "output": [] if choice is None else [self.item(choice, status)],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.get("temperature"),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": asked.get("top_logprobs") or 0,
            "top_p": asked.get("top_p"),
            "truncation": "disabled",
            "usage": usage,
            "user": asked.get("user"),
            "metadata": asked.get("metadata") or {},
        }
        return record | (self.generation.more() if status != "failed" else {})


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish == "length" else "completed"


async def response_record(generation: Generation, asked: Mapping[str, Any]) -> Record:
    """The answer as one `response` object. asked: the body as it was sent. Raises what the pieces raise."""
    response = _Response(generation, asked)
    (choice,) = await gathered(generation)
    return response.record(_status(choice), choice)


async def response_events(generation: Generation, asked: Mapping[str, Any], explain: Explain) -> AsyncIterator[bytes]:
    """The answer as `response.…` events. What goes wrong in the middle ends it with `response.failed`."""
    response, choice, numbers = _Response(generation, asked), Choice(), itertools.count()
    place = {"item_id": response.item_id, "output_index": 0, "content_index": 0}

    def told(name: str, **fields: Any) -> bytes:
        return event({"type": name, "sequence_number": next(numbers), **fields}, name)

    yield told("response.created", response=response.record("in_progress"))
    yield told("response.in_progress", response=response.record("in_progress"))
    try:
        yield told("response.output_item.added", output_index=0, item=response.item(None, "in_progress"))
        yield told("response.content_part.added", **place, part=response.part(choice))
        async with contextlib.aclosing(generation.pieces) as pieces:
            async for piece in pieces:
                choice.add(piece)
                if piece.text or piece.tokens:
                    logprobs = [chat_logprob(token) for token in piece.tokens]
                    yield told("response.output_text.delta", **place, delta=piece.text, logprobs=logprobs)
        part = response.part(choice)
        yield told("response.output_text.done", **place, text=choice.text, logprobs=part["logprobs"])
        yield told("response.content_part.done", **place, part=part)
        yield told("response.output_item.done", output_index=0, item=response.item(choice, _status(choice)))
        yield told(f"response.{_status(choice)}", response=response.record(_status(choice), choice))
    except DistilledPRAGError as error:
        said = error_record(error, explain)[1]["error"]
        failed = {"code": "server_error", "message": said["message"]}
        yield told("response.failed", response=response.record("failed", error=failed))
