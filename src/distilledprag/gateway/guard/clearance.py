"""One clearance for each kind of request to the engine. A clearance is made for one request, from what that may contain.

    models, health     nothing but method and path
    adapter            header equal to that of an adapter of no document and the same rank; numbers without text
    prompt             only known fields; ids that, without masks, are exactly those of a prompt without documents
    plain text         documents in the open: made only where the operator switched plain RAG on
    removal            an id that the engine gave out

Raises WireGuardError for everything else. Knows nothing of HTTP libraries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distilledprag.gateway.failures import WireGuardError
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.words import words

ADAPTERS = "/v1/adapters"
COMPLETIONS = "/v1/completions"
BARE_PATHS = ("/health", "/v1/models")

_KINDS: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
    "stream": (bool,),
}
_FORM = frozenset({"model", "prompt", "max", "tokens", "temperature", "top", "p", "stream", "true", "false"})
_ADAPTER_ID = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_PREFIX = 8  # bytes of a safetensors file that hold its header's length


class Clearance(Protocol):
    """Decides about one request. `path`: with the query; `body`: exactly the bytes to be sent."""

    def check(self, method: str, path: str, body: bytes) -> None:
        """Return, or raise WireGuardError."""
        ...


@dataclass(frozen=True)
class BareClearance:
    """For requests that say nothing."""

    def check(self, method: str, path: str, body: bytes) -> None:
        _require(method == "GET" and path in BARE_PATHS and not body, "a request that should be bare says something")


@dataclass(frozen=True)
class RemovalClearance:
    """For deleting an adapter."""

    adapter_id: str

    def check(self, method: str, path: str, body: bytes) -> None:
        right = method == "DELETE" and path == f"{ADAPTERS}/{checked_adapter_id(self.adapter_id)}" and not body
        _require(right, "a request to delete an adapter says something else")


@dataclass(frozen=True)
class AdapterClearance:
    """For uploading an adapter. `reference`: of the same generator and rank, made without any document."""

    protected: Protected
    reference: bytes

    def check(self, method: str, path: str, body: bytes) -> None:
        _require(method == "POST" and path == ADAPTERS, "an adapter goes to a wrong place")
        end = _PREFIX + int.from_bytes(self.reference[:_PREFIX], "little")
        same_form = body[:end] == self.reference[:end] and len(body) == len(self.reference)
        _require(same_form, "an adapter's header or size depends on the documents")
        self.protected.check_tensors(body[end:], "the adapter")


@dataclass(frozen=True)
class PromptClearance:
    """For asking. `reference_ids`: the prompt made without any passage; `decode`: ids -> text; `model`: name to be asked."""

    protected: Protected
    reference_ids: Sequence[int]
    mask_id: int
    model: str
    decode: Callable[[list[int]], str]

    def check(self, method: str, path: str, body: bytes) -> None:
        ids = _prompt_of(method, path, body, self.model)
        kept = [index for index in ids if index != self.mask_id]
        _require(kept == list(self.reference_ids), "the masked prompt is not the question's prompt with masks in it")
        self.protected.check_ids(ids, "the prompt")
        self.protected.check_text(self.decode(kept), "the prompt")
        self.protected.check_bytes(body, "the request", [*_FORM, *words(self.model)])


@dataclass(frozen=True)
class PlainTextClearance:
    """For plain RAG: the prompt may hold documents, and must be exactly the one given; the form is checked all the same."""

    prompt_ids: Sequence[int]
    model: str

    def check(self, method: str, path: str, body: bytes) -> None:
        ids = _prompt_of(method, path, body, self.model)
        _require(ids == list(self.prompt_ids), "the prompt is not the one that was to be sent")


def checked_adapter_id(id: str) -> str:
    """An id that the engine gave out, as it may stand in a path or a model's name. Raises WireGuardError."""
    _require(isinstance(id, str) and _ADAPTER_ID.fullmatch(id) is not None, "the engine gave out an adapter id of a wrong form")
    return id


def _prompt_of(method: str, path: str, body: bytes, model: str) -> list[int]:
    """The token ids of a request to complete, all else being of the right form."""
    _require(method == "POST" and path == COMPLETIONS, "a prompt goes to a wrong place")
    fields: Any = json.loads(body)
    _require(isinstance(fields, dict) and {"model", "prompt"} <= fields.keys(), "a prompt's request has a wrong form")
    _require(fields.keys() <= {"model", "prompt", *_KINDS}, "a prompt's request has a field that it should not have")
    _require(fields["model"] == model, "a prompt names another model than the one to be asked")
    for name, kinds in _KINDS.items():
        _require(name not in fields or type(fields[name]) in kinds, "a prompt's request has a setting of a wrong kind")
    prompt = fields["prompt"]
    _require(isinstance(prompt, list) and all(type(index) is int for index in prompt), "a prompt is no list of token ids")
    return prompt


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise WireGuardError(
            f"the guard found that {otherwise}, and sent nothing; this is a fault of the program, please report it"
        )
