"""The prompts of the method: what the teacher reads, and what is sent in its place.

    open     You should answer ...  Passage 1: Rome is ...  Question: Where ...?  The answer is
    masked   You should answer ...  Passage 1: # # # # ...  Question: Where ...?  The answer is

Every segment is tokenized on its own and the ids are joined, so the two are aligned by construction, and a
name has the same tokens in a document, a question and an answer (each begins with one space). Source of the
wording and of the masks: the paper's section on inference; earlier work's prompt puts all of it in the user's
turn, as is done here, so templates with a system message of their own keep it and those that forbid one are
served alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilledprag.errors import CheckpointError, InputError
from distilledprag.prompts.token_ids import ChatTemplate, Frame, PlainTextEncoder, check_text

INSTRUCTION = "You should answer the question by referring to the knowledge provided below and integrating your own knowledge."
INSTRUCTION_CLOSED_BOOK = "You should answer the question by integrating your own knowledge."
ANSWER_PREFIX = "The answer is"

_NO_LENGTH = 10**9  # transformers writes a huge number where a tokenizer names no length
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KEPT_FRAMES = 64

Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, plain and masked, and which positions are a document's; all of one length."""

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

    `max_tokens` is the longest prompt `build` and `closed_book` allow; None takes the tokenizer's own length,
    if any. Where a method takes a `history`, it is a list of earlier messages
    `{"role": "system" | "user" | "assistant", "content": str}`.
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
        round_to: int = 1,
    ) -> Prompt:
        """The whole prompt, ready for the answer; without passages, the closed-book prompt. round_to: as for `context`.

        Raises InputError for an unusable text and for a prompt longer than `max_tokens` (default: the
        builder's).
        """
        prompt = self.context(passages, history, round_to=round_to).followed_by(self.question(question, history))
        limit = max_tokens or self.max_tokens
        if limit is not None and len(prompt) > limit:
            raise InputError(
                f"the prompt has {len(prompt)} tokens ({sum(prompt.is_document)} of them in passages), "
                f"{len(prompt) - limit} more than the {limit} the model reads; use fewer or shorter passages"
            )
        return prompt

    def context(self, passages: Sequence[str], history: Sequence[Message] = (), *, round_to: int = 1) -> Prompt:
        """All of the prompt up to (not including) the question.

        round_to: each passage is followed by filler, masked like itself, up to a multiple of so many tokens, so that the masks
        tell its length no more precisely than that. An empty passage keeps its number and spans nothing. Raises InputError for
        an unusable text.
        """
        if isinstance(passages, str):
            raise InputError("passages must be a list of strings, not one string; write [passage]")
        ids = self._opening(INSTRUCTION if passages else INSTRUCTION_CLOSED_BOOK, self._conversation(history))
        is_document = [False] * len(ids)
        for number, passage in enumerate(passages, start=1):
            check_text(passage, f"passage {number}")
            label, document = self.passage_label(number), self._spaced(passage)
            document = document + self._filler(rounded(len(document), round_to) - len(document))
            ids += label + document
            is_document += [False] * len(label) + [True] * len(document)
        masked = [self.mask_token_id if hidden else index for index, hidden in zip(ids, is_document, strict=True)]
        return Prompt(ids, masked, is_document)

    def masked_context(self, lengths: Sequence[int]) -> list[int]:
        """The masked ids of a context whose passages have so many tokens each: all that a masked prompt says of them."""
        ids = self._opening(INSTRUCTION, self._conversation(()))
        for number, length in enumerate(lengths, start=1):
            ids += [*self.passage_label(number), *[self.mask_token_id] * length]
        return ids

    def passage_label(self, number: int) -> list[int]:
        """What stands before the text of passage `number` (from 1)."""
        return self._encoder.structure(f"\nPassage {number}:")

    def document_ids(self, text: str) -> list[int]:
        """A passage's (or a sentence's) ids as they stand in a prompt. Raises InputError for an unusable text."""
        check_text(text)
        return self._spaced(text)

    def document_length(self, text: str) -> int:
        """How many tokens a passage (or a sentence) has in a prompt. Raises InputError for an unusable text."""
        return len(self.document_ids(text))

    def question(self, question: str, history: Sequence[Message] = ()) -> list[int]:
        """The rest of the prompt, from the question's label to the answer prefix, both included.

        Raises InputError for an empty or unusable question.
        """
        check_text(question, "the question")
        if not question.strip():
            raise InputError("the question is empty; write one")
        frame = self._conversation(history).frame
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

    def _filler(self, count: int) -> list[int]:
        return self._spaced(filler(count))[:count] if count else []

    def _spaced(self, text: str) -> list[int]:
        """Ids of a text with one space before it and none around it; nothing for an empty text."""
        stripped = text.strip()
        return self._encoder.text(" " + stripped) if stripped else []

    def _opening(self, instruction: str, conversation: _Conversation) -> list[int]:
        """Begin of the conversation, earlier messages, and the instruction that heads the current turn."""
        frame, ids = conversation.frame, list(self._begin)
        for place, message in enumerate(frame.messages[:-1]):
            ids += self._message(frame.texts[place], conversation.contents[message], at_start=place == 0)
        lead = frame.texts[-2]
        at_start = len(frame.messages) == 1
        if conversation.preface:
            ids += self._message(lead, conversation.preface, at_start=at_start)
            lead, at_start = "\n\n", False
        return ids + self._encoder.structure(lead + instruction, at_start=at_start)

    def _message(self, lead: str, content: str, *, at_start: bool) -> list[int]:
        """What the template writes before an earlier message, and the message."""
        # A space before a message is part of the message's first word.
        space = " " if lead.endswith(" ") and content else ""
        written = self._encoder.structure(lead.removesuffix(space), at_start=at_start)
        return written + self._encoder.text(space + content)

    def _conversation(self, history: Sequence[Message]) -> _Conversation:
        """The earlier messages in their frame; the user says a system message the template forbids."""
        turns = _turns(history)
        system = "\n\n".join(content for role, content in turns if role == "system")
        others = [turn for turn in turns if turn[0] != "system"]
        if system:
            with contextlib.suppress(InputError, CheckpointError):
                return self._framed([("system", system), *others])
            if others and others[0][0] == "user":
                others[0] = ("user", f"{system}\n\n{others[0][1]}")
                system = ""
        return self._framed(others, preface=system)

    def _framed(self, turns: list[tuple[str, str]], preface: str = "") -> _Conversation:
        roles = tuple(role for role, _ in turns)
        frame = self._frames.get(roles)
        if frame is None:
            frame = self._template.frame(roles)
            if len(self._frames) >= _KEPT_FRAMES:
                self._frames.clear()
            self._frames[roles] = frame
        return _Conversation(frame, tuple(content for _, content in turns), preface)


def rounded(length: int, round_to: int) -> int:
    """How many masks a passage of so many tokens has: the next multiple of `round_to`."""
    return -(-length // round_to) * round_to


def filler(count: int) -> str:
    """A text that says nothing, of `count` tokens at least."""
    return " .." * count


@dataclass(frozen=True)
class _Conversation:
    """Earlier messages in their frame; `preface` opens the turn: a system message without another place."""

    frame: Frame
    contents: tuple[str, ...]
    preface: str


def _turns(history: Sequence[Message]) -> list[tuple[str, str]]:
    """The history as (role, content) pairs, checked."""
    turns = []
    for number, message in enumerate(history, start=1):
        if not isinstance(message, Mapping):
            raise InputError(f"message {number} of the history must have a role and a content; it is {message!r}")
        role = _ROLES.get(str(message.get("role")))
        if role is None:
            raise InputError(
                f"message {number} of the history has the role {message.get('role')!r}; use system, user or assistant"
            )
        content = message.get("content", "")
        check_text(content, f"the content of message {number} of the history")
        turns.append((role, content.strip()))
    return turns
