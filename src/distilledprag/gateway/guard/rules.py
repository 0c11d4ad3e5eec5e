"""What may leave this machine: one egress rule for each kind of request to the engine, checked on the bytes to be sent.

    models, health, list of adapters   nothing but method and path
    adapter            header equal to that of an adapter of no document with a row for every document token; numbers without text
    prompt             byte for byte what the user's settings and the ids make; ids that, without masks, are exactly those of
                       a prompt without documents, and masks where and as many as the passages have tokens
    plain text         documents in the open: made only where the operator allowed plain RAG
    removal            an id that the engine gave out

A rule is made for one request, from what that may contain, and raises WireGuardError for everything else. It reads the outbound
body a second time on purpose: it does not trust the code that built it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distilledprag.gateway.guard.protected import Protected, WireGuardError, words

ADAPTERS = "/v1/adapters"
COMPLETIONS = "/v1/completions"
BARE_PATHS = ("/health", "/v1/models", ADAPTERS)

_FORM = frozenset("model prompt max tokens temperature top p seed stream true false stop n logprobs response format".split())
_ADAPTER_ID = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_MOST_TOKENS = 10**6  # that an answer may be asked to have
_LARGEST_SEED = 2**63
_MOST_CHOICES, _MOST_LOGPROBS, _MOST_STOPS, _LONGEST_FORMAT = 8, 20, 4, 2 * 64 * 1024
_NO_BOUND = 10**9
_PREFIX = 8  # bytes of a safetensors file that hold its header's length


class EgressRule(Protocol):
    """Decides about one request. `path`: with the query; `body`: exactly the bytes to be sent."""

    def check(self, method: str, path: str, body: bytes) -> None:
        """Return, or raise WireGuardError."""
        ...


@dataclass(frozen=True)
class BareRule:
    """For requests that say nothing."""

    def check(self, method: str, path: str, body: bytes) -> None:
        _require(method == "GET" and path in BARE_PATHS and not body, "a request that should be bare says something")


@dataclass(frozen=True)
class RemovalRule:
    """For deleting an adapter."""

    adapter_id: str

    def check(self, method: str, path: str, body: bytes) -> None:
        right = method == "DELETE" and path == f"{ADAPTERS}/{checked_adapter_id(self.adapter_id)}" and not body
        _require(right, "a request to delete an adapter says something else")


@dataclass(frozen=True)
class AdapterRule:
    """For uploading an adapter. `reference`: of the same generator and as many rows, made without any document."""

    protected: Protected
    reference: bytes

    def check(self, method: str, path: str, body: bytes) -> None:
        _require(method == "POST" and path == ADAPTERS, "an adapter goes to a wrong place")
        end = _PREFIX + int.from_bytes(self.reference[:_PREFIX], "little")
        same_form = body[:end] == self.reference[:end] and len(body) == len(self.reference)
        _require(same_form, "an adapter's header or size depends on the documents")
        header = json.loads(self.reference[_PREFIX:end])
        widths = {entry["shape"][-1] for entry in header.values() if entry.get("shape")}
        self.protected.check_tensors(body[end:], "the adapter", widths)


@dataclass(frozen=True)
class AnswerSettings:
    """What the user asked about the answer itself; what is None or empty is not sent. max_tokens: as asked; less is sent where
    the engine writes no more than `most`, or reads no more than `context` tokens with the prompt. logprobs: likely tokens to tell
    beside each written one. response_format: an object of JSON, the user's own words."""

    max_tokens: int
    temperature: float = 0.0
    stream: bool = False
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    most: int = _NO_BOUND
    context: int = _NO_BOUND

    def request(self, model: str, prompt: Sequence[int]) -> bytes:
        """The only bytes in which a prompt may be sent. Raises WireGuardError for settings of a wrong kind or size."""
        kinds = type(self.max_tokens) is int and type(self.stream) is bool
        kinds = kinds and all(type(number) in (int, float, type(None)) for number in (self.temperature, self.top_p))
        kinds = kinds and type(self.seed) in (int, type(None))
        _require(kinds and 1 <= self.max_tokens <= _MOST_TOKENS, "a setting is of a wrong kind or size")
        _require(self.seed is None or abs(self.seed) < _LARGEST_SEED, "a setting is of a wrong size")
        _require(0 <= self.temperature <= 2 and (self.top_p is None or 0 < self.top_p <= 1), "a setting is of a wrong size")
        bounds = type(self.choices) is int and 1 <= self.choices <= _MOST_CHOICES and len(self.stop) <= _MOST_STOPS
        bounds = bounds and (self.logprobs is None or 0 <= self.logprobs <= _MOST_LOGPROBS)
        bounds = bounds and len(json.dumps(self.response_format)) <= _LONGEST_FORMAT
        _require(bounds, "a setting is of a wrong size")
        max_tokens = min(self.max_tokens, self.most, self.context - len(prompt))
        _require(max_tokens >= 1, "there is no room for an answer")
        fields: dict[str, Any] = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens}
        fields |= {"temperature": self.temperature, "stream": self.stream}
        fields |= {} if self.top_p is None else {"top_p": self.top_p}
        fields |= {} if self.seed is None else {"seed": self.seed}
        fields |= {"stop": list(self.stop)} if self.stop else {}
        fields |= {"n": self.choices} if self.choices > 1 else {}
        fields |= {} if self.logprobs is None else {"logprobs": self.logprobs}
        fields |= {} if self.response_format is None else {"response_format": self.response_format}
        return json.dumps(fields, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Masks:
    """Where masks belong. `lengths`: of each passage, in tokens, rounded up where that is wanted; `labels`: the ids that stand
    right before each of them."""

    mask_id: int
    lengths: Sequence[int]
    labels: Sequence[Sequence[int]]

    def check(self, ids: Sequence[int]) -> None:
        """Raise WireGuardError when the masks of `ids` could say anything else than how long the passages are."""
        parts = [list(part) for _, part in itertools.groupby(ids, key=self.mask_id.__eq__)]
        places = [place for place, part in enumerate(parts) if part[0] == self.mask_id]
        _require([len(parts[place]) for place in places] == list(self.lengths), "there are not as many masks as tokens")
        for number, (place, label) in enumerate(zip(places, self.labels, strict=True)):
            before = parts[place - 1] if place else []
            before = before if number else before[-len(label) :]
            _require(before == list(label), "masks stand where no passage belongs")


@dataclass(frozen=True)
class PromptRule:
    """For asking. `reference_ids`: the prompt made without any passage; `decode`: ids -> text; `model`: name to be asked."""

    protected: Protected
    reference_ids: Sequence[int]
    masks: Masks
    model: str
    settings: AnswerSettings
    decode: Callable[[list[int]], str]

    def check(self, method: str, path: str, body: bytes) -> None:
        ids = _prompt_of(method, path, body, self.model, self.settings)
        kept = [index for index in ids if index != self.masks.mask_id]
        _require(kept == list(self.reference_ids), "the masked prompt is not the question's prompt with masks in it")
        self.masks.check(ids)
        self.protected.check_ids(ids, "the prompt")
        self.protected.check_text(self.decode(kept), "the prompt")
        self.protected.check_bytes(body, "the request", [*_FORM, *words(self.model)])


@dataclass(frozen=True)
class PlainTextRule:
    """For plain RAG: the prompt may hold documents, and must be exactly the one given; the form is checked all the same."""

    prompt_ids: Sequence[int]
    model: str
    settings: AnswerSettings

    def check(self, method: str, path: str, body: bytes) -> None:
        ids = _prompt_of(method, path, body, self.model, self.settings)
        _require(ids == list(self.prompt_ids), "the prompt is not the one that was to be sent")


def checked_adapter_id(id: str) -> str:
    """An id that the engine gave out, as it may stand in a path or a model's name. Raises WireGuardError."""
    _require(isinstance(id, str) and _ADAPTER_ID.fullmatch(id) is not None, "the engine gave out an adapter id of a wrong form")
    return id


def _prompt_of(method: str, path: str, body: bytes, model: str, settings: AnswerSettings) -> list[int]:
    """The token ids of a request to complete, all else being exactly as it should be."""
    _require(method == "POST" and path == COMPLETIONS, "a prompt goes to a wrong place")
    fields: Any = json.loads(body)
    prompt: Any = fields.get("prompt") if isinstance(fields, dict) else None
    _require(isinstance(prompt, list) and all(type(index) is int for index in prompt), "a prompt is no list of token ids")
    _require(body == settings.request(model, prompt), "a prompt's request says more than model, prompt and the user's settings")
    return prompt


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise WireGuardError(
            f"the guard found that {otherwise}, and sent nothing; this is a fault of the program, please report it"
        )
