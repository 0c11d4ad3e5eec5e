"""What a tokenizer's chat template writes around the messages of a conversation.

The template is rendered with unguessable stand-ins for the messages and split at them, so no text from
outside ever passes through it, and the same frame serves every question.

    "<|im_start|>user\\n" BODY "<|im_end|>\\n<|im_start|>assistant\\n"
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from distilledprag.errors import CheckpointError, InputError

# Templates that write the date would make every day's prompts differ: this macro hides the clock from them.
# Its day is the one Llama 3.x falls back to without a clock.
_DAY = {"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%B": "July", "%b": "Jul", "%d": "26", "%-d": "26"}
_DAY |= {"%e": "26", "%A": "Friday", "%a": "Fri", "%H": "12", "%M": "00", "%S": "00", "%F": "2024-07-26"}
_SAME_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('{directive}','{value}')" for directive, value in _DAY.items())
    + " }}{% endmacro %}{{ '' }}"
)


@dataclass(frozen=True)
class Frame:
    """A rendered conversation: texts between messages, and which message stands between them.

    texts[0] messages[0] texts[1] ... messages[-1] texts[-1]; a message is its index in the conversation, the
    last one being the current turn of the user; len(texts) == len(messages) + 1.
    """

    texts: tuple[str, ...]
    messages: tuple[int, ...]


class ChatTemplate:
    """The chat template of one tokenizer, or the plain frames of a tokenizer that has none."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.source: str = _source(tokenizer)
        self._template = (_SAME_DAY if "strftime_now" in self.source else "") + self.source

    def frame(self, roles: Sequence[str]) -> Frame:
        """The frame of a conversation with these roles before the current turn of the user, which comes last.

        The frame's last text ends where the assistant's words begin, after an empty thinking block where the
        template opens one. Raises InputError when the template refuses the roles, CheckpointError when it
        loses a message.
        """
        if not self.source:
            return _plain_frame(roles)
        texts, messages = self._render([*roles, "user"], generate=True)
        if not messages or messages[-1] != len(roles):
            raise CheckpointError("the chat template does not end with the user's message; it cannot be used")
        return Frame((*texts[:-1], self._opening(texts[-1])), messages)

    def after_answer(self) -> str:
        """What the template writes after the assistant's words; "" without a template."""
        return self._answer_turn()[1]

    def _opening(self, written: str) -> str:
        """The text up to the assistant's first word, from what the template writes to ask for an answer."""
        if "<think>" in written and "</think>" not in written.rpartition("<think>")[2]:
            return written.rstrip() + "\n\n</think>\n\n"
        placed = self._answer_turn()[0]
        # Mistral asks with "[/INST]" and writes the assistant's words after "[/INST] ".
        return placed if placed.startswith(written) and placed[len(written) :].isspace() else written

    def _answer_turn(self) -> tuple[str, str]:
        """The texts before and after the assistant's words in an answered conversation."""
        if not self.source:
            return "", ""
        try:
            texts, messages = self._render(["user", "assistant"], generate=False)
        except (InputError, CheckpointError):
            return "", ""
        return (texts[1], texts[2]) if messages == (0, 1) else ("", "")

    def _render(self, roles: Sequence[str], *, generate: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
        names = [f"M{secrets.token_hex(16)}M" for _ in roles]
        conversation = [{"role": role, "content": name} for role, name in zip(roles, names, strict=True)]
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generate,
                enable_thinking=False,
            )
        except TemplateError as error:
            raise InputError(
                f"the model's chat template refuses a conversation of {', '.join(roles)}: {error}; "
                "messages of user and assistant must take turns, beginning with the user"
            ) from error
        except Exception as error:
            raise CheckpointError(f"the model's chat template fails: {error!r}") from error
        parts = re.split("(" + "|".join(names) + ")", rendered)
        messages = tuple(names.index(part) for part in parts[1::2])
        if sorted(messages) != list(range(len(roles))):
            raise CheckpointError(
                f"the chat template does not write each message of a conversation of {', '.join(roles)} "
                "exactly once; it cannot be used"
            )
        return tuple(parts[0::2]), messages


def _source(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return ""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise CheckpointError(f"the tokenizer has several chat templates and none is the default: {error}") from error


def _plain_frame(roles: Sequence[str]) -> Frame:
    """Frames without a chat template: earlier messages as lines that begin with the role's name."""
    labels = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    texts = [("\n" if index else "") + labels[role] for index, role in enumerate(roles)]
    return Frame((*texts, "\n\n" if roles else "", "\n"), tuple(range(len(roles) + 1)))
