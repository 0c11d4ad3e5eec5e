"""Requests -> token ids, token ids -> text piece by piece, and which tokens may come next where a schema is asked for.

A masked prompt is exact as token ids. In text, `<|doc_mask|>` becomes the mask token: prompts come masked. Of the other control
tokens, a chat message can write none, a text of `/v1/completions` all, as is usual.

    JSON schema -> grammar (checked before the request is queued) -> mask over the vocabulary at each step of one answer

Grammars are llguidance's. They also tell the exact bytes of a token, which a tokenizer's own decoding does not (spaces, pieces of
a character).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import JsonCompiler, LLMatcher
from torch import Tensor

from distilledprag.base.architecture import embedding_table
from distilledprag.base.llm import BaseLLM
from distilledprag.base.masks import MASK_TOKEN, mask_record
from distilledprag.errors import CheckpointError, DistilledPRAGError
from distilledprag.http.errors import RequestError
from distilledprag.prompts.token_ids import ChatTemplate, PlainTextEncoder, check_text

_CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what a character decodes to whose last bytes are in the next token
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Tokenization:
    """The base model's tokenizer and chat template. Safe to share between threads."""

    def __init__(self, base: BaseLLM) -> None:
        self._tokenizer = base.tokenizer
        self.mask_id = base.mask_token_id
        record = mask_record(base.model)
        self._mask = MASK_TOKEN if record is None else record.token
        self._template = ChatTemplate(base.tokenizer)
        self._encoder = PlainTextEncoder(base.tokenizer, base.mask_token_id, self._template.source)
        self._vocabulary = embedding_table(base.model).shape[0]
        self._context_length = base.context_length
        self._longest_piece = max(map(len, base.tokenizer.get_vocab()))  # characters; a byte's stands for less than one
        end_of_text = base.model.generation_config.eos_token_id  # type: ignore[union-attr]
        ends = {end_of_text} if isinstance(end_of_text, int) else set(end_of_text or [])
        ends |= {base.tokenizer.eos_token_id, self._encoder.first_control(self._template.after_answer())}
        self.stop_ids: frozenset[int] = frozenset(ends - {None})
        if not self.stop_ids:
            raise CheckpointError("the base model's tokenizer has no token that ends an answer; it cannot be served")

    @cached_property
    def grammars(self) -> Grammars:
        """For answers in JSON and the bytes of tokens; made when it is first needed, which takes up to a second."""
        return Grammars(self._tokenizer, self._vocabulary, self.stop_ids)

    def completion_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """Ids of a prompt given as text or as ids. Raises RequestError."""
        if isinstance(prompt, str):
            ids = self._encode(prompt, lambda: self._tokenizer.encode(prompt))
        else:
            ids = list(prompt)
            if any(not 0 <= id < self._vocabulary for id in ids):
                raise RequestError(f"the prompt's token ids must lie between 0 and {self._vocabulary - 1}", param="prompt")
        if not ids:
            raise RequestError("the prompt is empty; send text or token ids", param="prompt")
        return ids

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation whose last message is the user's, in the chat template. Raises RequestError."""
        roles = [_ROLES[message["role"]] for message in messages]
        if not roles or roles[-1] != "user":
            raise RequestError("the last message must be the user's", param="messages")

        def encode() -> list[int]:
            frame = self._template.frame(roles[:-1])
            begin = self._tokenizer.bos_token_id
            ids = [begin] if begin is not None and not self._template.source else []
            for place, message in enumerate(frame.messages):
                lead, content = frame.texts[place], messages[message]["content"]
                # A space before a message is part of the message's first word.
                space = " " if lead.endswith(" ") and content else ""
                ids += self._encoder.structure(lead.removesuffix(space), at_start=place == 0)
                ids += self._masked_text(space + content)
            return ids + self._encoder.structure(frame.texts[-1])

        return self._encode("".join(message["content"] for message in messages), encode)

    def writer(self, stop: Sequence[str] = ()) -> TextWriter:
        """For one answer."""
        return TextWriter(self._tokenizer, stop)

    def _masked_text(self, text: str) -> list[int]:
        """Ids of a message: masks where they are written, no other control token."""
        ids: list[int] = []
        for number, part in enumerate(text.split(self._mask)):
            ids += [self.mask_id] if number else []
            ids += self._encoder.text(part) if part else []
        return ids

    def _encode(self, text: str, encode: Any) -> list[int]:
        fewest = -(-len(text) // self._longest_piece)
        if fewest > self._context_length:  # said before time is spent on making them
            raise RequestError(
                f"the prompt has {len(text)} characters, so at least {fewest} tokens; the model reads {self._context_length} in "
                "all",
                code="context_length_exceeded",
            )
        try:
            check_text(text, "the prompt")
            return encode()
        except RequestError:
            raise
        except DistilledPRAGError as error:
            raise RequestError(str(error)) from None


class TextWriter:
    """One answer's text as its tokens come. What it has given out never changes afterwards.

    Text is held back while it ends within a character, or could be the beginning of a stop text; a stop text is not given out.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._ids: list[int] = []
        self._settled = 0  # tokens whose text is in `_text` ...
        self._context = 0  # ... of which those from here on are decoded again with new ones, for the spaces between
        self._text = ""  # decoded
        self._given = 0  # characters of it that were given out
        self.stopped = False

    def add(self, id: int) -> str:
        """The text that can be given out now; after a stop text (`stopped`), what stood before it."""
        if self.stopped:
            return ""
        self._ids.append(id)
        fresh = self._decode(self._ids[self._context :])
        if fresh.endswith(_CUT_CHARACTER) and len(self._ids) - self._settled < 16:
            return ""
        return self._settle(fresh)

    def finish(self) -> str:
        """The rest."""
        if self.stopped:
            return ""
        self._settle(self._decode(self._ids[self._context :]))
        rest, self._given = self._text[self._given :], len(self._text)
        return "" if self.stopped else rest

    def _settle(self, fresh: str) -> str:
        known = self._decode(self._ids[self._context : self._settled])
        self._text += fresh[len(known) :]
        self._context, self._settled = self._settled, len(self._ids)
        found = [place for place in (self._text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
            end = len(self._text)
        else:
            end = len(self._text) - max((_overlap(self._text, stop) for stop in self._stop), default=0)
        given, self._given = self._text[self._given : end], max(end, self._given)
        return given

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True) if ids else ""


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


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
