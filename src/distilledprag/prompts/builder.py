"""The prompts of the method: what the teacher reads, and what is sent in its place.

    open     You should answer ...  Passage 1: Rome is ...   Question: Where ...?  The answer is
    masked   You should answer ...  Passage 1: # # # # ...   Question: Where ...?  The answer is        (# = mask token)

Every segment is tokenized on its own and the ids are joined, so the two are aligned by construction, and a name has
the same tokens in a document, a question and an answer (each begins with one space). Source of the wording and of the
masks: the paper's section on inference; earlier work's prompt puts all of it in the user's turn, as is done here, so
templates with a system message of their own keep it and those that forbid one are served alike.

This module knows nothing about models, adapters or retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilledprag.errors import CheckpointError, InputError
from distilledprag.prompts.chat import ChatTemplate, Frame
from distilledprag.prompts.plain_text import PlainTextEncoder, check_text

INSTRUCTION = (
    "You should answer the question by referring to the knowledge provided below and integrating your own knowledge."
)
INSTRUCTION_CLOSED_BOOK = "You should answer the question by integrating your own knowledge."
ANSWER_PREFIX = "The answer is"

_NO_LENGTH = 10**9  # transformers writes a huge number where a tokenizer names no length
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KEPT_FRAMES = 64

Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids: in plaintext, masked, and which positions belong to a document. All of one length."""

    open_ids: list[int]
    masked_ids: list[int]
    is_document: list[bool]

    def __len__(self) -> int:
        return len(self.open_ids)

    def followed_by(self, ids: Sequence[int]) -> Prompt:
        """This prompt with `ids` after it, the same in both, none of them a document's."""
        return Prompt([*self.open_ids, *ids], [*self.masked_ids, *ids], [*self.is_document, *[False] * len(ids)])


class PromptBuilder:
    """Builds prompts for one tokenizer; immutable once made, and safe to share between threads.

    `max_tokens` is the longest prompt `build` and `closed_book` allow; None takes the tokenizer's own length, if any.
    `history` is a list of earlier messages `{"role": "system" | "user" | "assistant", "content": str}`.
    """

    def __init__(self, tokenizer: Any, mask_token_id: int, *, max_tokens: int | None = None) -> None:
        self._template = ChatTemplate(tokenizer)
        self._encoder = PlainTextEncoder(tokenizer, mask_token_id, self._template.source)
        self.mask_token_id = mask_token_id
        length = tokenizer.model_max_length
        self.max_tokens = max_tokens or (length if length and length < _NO_LENGTH else None)
        begin = tokenizer.bos_token_id
        self._begin = [begin] if begin is not None and not self._template.source else []
        end = self._encoder.first_control(self._template.after_answer())
        self._end = tokenizer.eos_token_id if end is None else end
        self._frames: dict[tuple[str, ...], Frame] = {}

    @property
    def end_of_turn_id(self) -> int:
        """The token that ends an answer: the chat template's end of turn, or the end-of-text token."""
        if self._end is None:
            raise CheckpointError("the tokenizer has neither an end-of-text token nor a chat template that ends a turn")
        return self._end

    def build(
        self,
        question: str,
        passages: Sequence[str],
        history: Sequence[Message] = (),
        *,
        max_tokens: int | None = None,
    ) -> Prompt:
        """The whole prompt, ready for the answer; without passages, the closed-book prompt.

        Raises InputError for an unusable text and for a prompt longer than `max_tokens` (default: the builder's).
        """
        prompt = self.context(passages, history).followed_by(self.question(question, history))
        limit = max_tokens or self.max_tokens
        if limit is not None and len(prompt) > limit:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, {len(prompt) - limit} more than the {limit} the model can read "
                f"({sum(prompt.is_document)} of them are passages); use fewer or shorter passages"
            )
        return prompt

    def context(self, passages: Sequence[str], history: Sequence[Message] = ()) -> Prompt:
        """All of the prompt up to (not including) the question. An empty passage keeps its number and spans nothing."""
        _check_passages(passages)
        prompt = self._opening(INSTRUCTION if passages else INSTRUCTION_CLOSED_BOOK, history)
        for number, passage in enumerate(passages, start=1):
            check_text(passage, f"passage {number}")
            prompt = prompt.followed_by(self._encoder.structure(f"\nPassage {number}:"))
            ids = self._spaced(passage)
            prompt = Prompt(
                prompt.open_ids + ids,
                prompt.masked_ids + [self.mask_token_id] * len(ids),
                prompt.is_document + [True] * len(ids),
            )
        return prompt

    def question(self, question: str, history: Sequence[Message] = ()) -> list[int]:
        """The rest of the prompt: from the question's label to the answer prefix, inclusive. Ids the model still reads."""
        check_text(question, "the question")
        if not question.strip():
            raise InputError("the question is empty; write one")
        frame = self._frame(_turns(history))
        return [
            *self._encoder.structure("\n\nQuestion:"),
            *self._spaced(question),
            *self._encoder.structure(frame.texts[-1] + ANSWER_PREFIX),
        ]

    def closed_book(self, question: str, history: Sequence[Message] = (), *, max_tokens: int | None = None) -> list[int]:
        """The prompt without any passages. Errors as in `build`."""
        return self.build(question, [], history, max_tokens=max_tokens).open_ids

    def answer_ids(self, answer: str) -> list[int]:
        """What the model must write after a prompt: the answer and the token that ends its turn."""
        check_text(answer, "the answer")
        if not answer.strip():
            raise InputError("the answer is empty; write one")
        return [*self._spaced(answer), self.end_of_turn_id]

    def _spaced(self, text: str) -> list[int]:
        """Ids of a text with one space before it and none around it; nothing for an empty text."""
        stripped = text.strip()
        return self._encoder.text(" " + stripped) if stripped else []

    def _opening(self, instruction: str, history: Sequence[Message]) -> Prompt:
        """Begin of the conversation, earlier messages, and the instruction at the head of the current turn."""
        turns = _turns(history)
        frame = self._frame(turns)
        ids = list(self._begin)
        lead = frame.texts[0]
        for place, message in enumerate(frame.messages[:-1]):
            # A space the template writes before a message is part of the message's first word.
            space = " " if lead.endswith((" ", ":")) else ""
            ids += self._encoder.structure(lead.removesuffix(" "), at_start=place == 0)
            ids += self._encoder.text(space + turns[message][1])
            lead = frame.texts[place + 1]
        ids += self._encoder.structure(lead + instruction, at_start=len(frame.messages) == 1)
        return Prompt(ids, list(ids), [False] * len(ids))

    def _frame(self, turns: Sequence[tuple[str, str]]) -> Frame:
        roles = tuple(role for role, _ in turns)
        if roles not in self._frames:
            if len(self._frames) >= _KEPT_FRAMES:
                self._frames.clear()
            self._frames[roles] = self._template.frame(roles)
        return self._frames[roles]


def _turns(history: Sequence[Message]) -> list[tuple[str, str]]:
    """The history as (role, content) pairs, checked."""
    turns = []
    for number, message in enumerate(history, start=1):
        role = _ROLES.get(message.get("role", ""))
        if role is None:
            raise InputError(
                f"message {number} of the history has the role {message.get('role')!r}; use system, user or assistant"
            )
        content = message.get("content")
        check_text(content, f"message {number} of the history")  # type: ignore[arg-type]
        turns.append((role, str(content).strip()))
    return turns


def _check_passages(passages: Sequence[str]) -> None:
    if isinstance(passages, str):
        raise InputError("passages must be a list of strings, not one string; write [passage]")
