"""What the guard compares a request with, made apart from what builds requests.

    prompts of placeholders, before any document was read  --> the frame's words and tokens, the labels before passages
    the user's own messages, the passages                  --> their words and tokens, by the tokenizer alone

So a fault of the prompt builder that writes a passage into every prompt is found.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from distilledprag.documents import Passage
from distilledprag.errors import CheckpointError, InputError
from distilledprag.gateway.guard.protected import AllowedRuns, Protected, words
from distilledprag.gateway.guard.rules import Masks
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.chat import ChatTemplate
from distilledprag.prompts.plain_text import PlainTextEncoder

MOST_PASSAGES = 20  # in one prompt
_NO_LIMIT = 10**9
_CONVERSATIONS = (
    ["system"],
    ["user"],
    ["assistant"],
    ["user", "assistant"],
    ["user", "assistant", "user", "assistant"],
    ["system", "user", "assistant", "user", "assistant"],
)


class EgressReference:
    """Make it before the first document is read: `prompts` is used here and never again. round_to: of a passage's masks."""

    def __init__(self, prompts: PromptBuilder, tokenizer: Any, round_to: int = 1) -> None:
        self._tokenizer, self._round_to = tokenizer, round_to
        self._mask_id = prompts.mask_token_id
        self._encoder = PlainTextEncoder(tokenizer, prompts.mask_token_id, ChatTemplate(tokenizer).source)
        counts = range(MOST_PASSAGES + 1)
        self._frames = [prompts.build("?", [""] * count, max_tokens=_NO_LIMIT).open_ids for count in counts]
        self._conversations: list[list[int]] = []
        for roles in _CONVERSATIONS:
            with contextlib.suppress(InputError, CheckpointError):  # templates refuse some
                history = [{"role": role, "content": "?"} for role in roles]
                self._conversations.append(prompts.build("?", [], history, max_tokens=_NO_LIMIT).open_ids)
        self._labels = _labels(prompts)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as the text that the model reads, control tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def protected(self, passages: Sequence[Passage], messages: Sequence[str]) -> Protected:
        """What must not leave: of `passages` and their titles, less the frame and `messages`, the user's own."""
        texts = [passage.text for passage in passages] + [passage.title for passage in passages if passage.title]
        frames = [self._frames[len(passages)], *self._conversations]
        own_ids = [ids for text in messages for ids in (self._ids(text), self._encoder.text(text.strip()))]
        own_words = [words(text) for text in (*messages, *map(self.decode, own_ids))]
        return Protected.of(
            texts,
            [self._ids(text) for text in texts],
            AllowedRuns([words(self.decode(ids)) for ids in frames], own_words),
            AllowedRuns(frames, own_ids),
        )

    def masks(self, texts: Sequence[str]) -> Masks:
        """Where the masks of these passages belong; an empty one has its label in the prompt, and no mask."""
        lengths: list[int] = []
        labels: list[list[int]] = []
        before: list[int] = []  # the labels since the last mask
        for text, label in zip(texts, self._labels, strict=False):
            before = before + label
            if length := len(self._ids(text)):
                lengths.append(math.ceil(length / self._round_to) * self._round_to)
                labels.append(before)
                before = []
        return Masks(self._mask_id, lengths, labels)

    def _ids(self, text: str) -> list[int]:
        """Tokens of a text as it stands in a prompt: after a space."""
        return self._encoder.text(f" {text.strip()}") if text.strip() else []


def _labels(prompts: PromptBuilder) -> list[list[int]]:
    """The ids between one passage and the next, and as many before the first one."""
    prompt = prompts.build("?", ["?"] * MOST_PASSAGES, max_tokens=_NO_LIMIT)
    places = [place for place, own in enumerate(prompt.is_document) if own]
    between = [prompt.open_ids[left + 1 : right] for left, right in pairwise(places) if right > left + 1]
    return [prompt.open_ids[places[0] - len(between[0]) : places[0]], *between]
