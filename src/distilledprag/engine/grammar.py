"""Answers that must be JSON of a schema: which tokens may come next, by llguidance.

    JSON schema -> grammar (checked before the request is queued) -> mask over the vocabulary at each step of one answer

Also the exact bytes of a token, which a tokenizer's own decoding does not tell (spaces, pieces of a character).
"""

from __future__ import annotations

import json
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import JsonCompiler, LLMatcher
from torch import Tensor

from distilledprag.http.errors import RequestError


class Grammars:
    """Of one tokenizer. vocabulary: rows of the embedding table; stop_ids: tokens that end an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: frozenset[int]) -> None:
        self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(stop_ids))
        # One way to write spaces: with any allowed, a small model writes them until its answer is cut.
        self._compiler = JsonCompiler(separators=(", ", ": "), whitespace_flexible=False)

    def of_schema(self, schema: dict[str, Any]) -> Grammar:
        """For one answer. Raises RequestError for a schema that is wrong, too complex, or says what cannot be kept to."""
        try:
            source = self._compiler.compile(json.dumps(schema))
        except ValueError as error:
            raise _refused(str(error)) from None
        if reason := LLMatcher.validate_grammar(source, self._tokens):
            raise _refused(reason)
        return Grammar(LLMatcher(self._tokens, source, log_level=0), schema)

    def bytes_of(self, id: int) -> bytes:
        """The bytes that a token writes; of a control token its name."""
        return self._tokens.decode_bytes([id])


class Grammar:
    """Where one answer stands in its grammar. schema: that it was made of."""

    def __init__(self, matcher: LLMatcher, schema: dict[str, Any]) -> None:
        self._matcher, self.schema = matcher, schema

    def fresh(self) -> Grammar:
        """The same grammar for another answer, from where this one stands."""
        return Grammar(self._matcher.deep_copy(), self.schema)

    def forbidden(self, vocabulary: int) -> Tensor:
        """(vocabulary,) whether a token may not come next. Raises RequestError when the grammar has become too complex."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        allowed = np.unpackbits(bits, bitorder="little")[:vocabulary]
        mask = torch.ones(vocabulary, dtype=torch.bool)
        mask[: len(allowed)] = torch.from_numpy(allowed == 0)
        return mask

    def advance(self, id: int) -> None:
        """This token was written."""
        self._matcher.consume_token(id)


def _refused(reason: str) -> RequestError:
    said = " ".join(reason.split())[:200]
    return RequestError(f"the schema cannot be kept to: {said}", code="unsupported_schema", param="response_format")
