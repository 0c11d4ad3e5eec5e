"""Text -> token ids: untrusted text without control tokens, our own structure with them; the two are never mixed. And what a
tokenizer's chat template writes around the messages of a conversation, which is such structure.

`PlainTextEncoder.text` is for what comes from outside (documents, questions, answers, history): control tokens written in it, the
mask token included, come out as the ordinary pieces of their spelling. `structure` is for our own words and for what the chat
template wrote: there control tokens are recognised.

    model + normalizer + pre-tokenizer, no added tokens    -> text        (what is absent cannot be matched)
    the same + control tokens looked up in a table         -> structure

An encoder never changes the tokenizer that it was made from, so threads may share it.

`ChatTemplate` renders the template with unguessable stand-ins for the messages and splits it at them, so no text from outside
ever passes through it, and the same frame serves every question.

    "<|im_start|>user\\n" BODY "<|im_end|>\\n<|im_start|>assistant\\n"
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from distilledprag.errors import CheckpointError, InputError

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class PlainTextEncoder:
    """Encodes untrusted text without control tokens, and trusted text with them.

    Works on tokenizers with a Rust backend and, through `split_special_tokens`, on those written in Python.
    """

    def __init__(self, tokenizer: Any, mask_token_id: int, template_text: str = "") -> None:
        """`template_text`: the chat template's source; added tokens it writes, such as `<think>`, are control
        tokens.
        """
        self._control = {added.content: (index, added) for index, added in tokenizer.added_tokens_decoder.items()}
        self._pattern = _any_of(self._control)
        self.forbidden_ids = _forbidden_ids(tokenizer, mask_token_id, template_text)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._bare: _RustEncoder | _PythonEncoder
        if isinstance(backend, Tokenizer):
            self._bare = _RustEncoder(backend, keep_prefix=False)
            self._native: _RustEncoder | _PythonEncoder = _RustEncoder(backend, keep_prefix=True)
        else:
            self._bare = self._native = _PythonEncoder(tokenizer)
        self._prefix_after_control = self._adds_prefix_after_control(tokenizer)

    def text(self, text: str) -> list[int]:
        """Token ids of untrusted `text`; none of them is in `forbidden_ids`.

        Raises InputError for text that is not a string, that holds a lone surrogate, or that this tokenizer
        cannot write without a control token (no tokenizer in use does that).
        """
        check_text(text)
        ids, pieces = self._bare.encode(text)
        if not self.forbidden_ids.isdisjoint(ids):
            # A control token's spelling is in the model's own vocabulary: write it one character at a time.
            parts = [
                self._piece_by_piece(piece) if index in self.forbidden_ids else [index]
                for index, piece in zip(ids, pieces, strict=True)
            ]
            ids = [index for part in parts for index in part]
        return ids

    def structure(self, text: str, *, at_start: bool = False) -> list[int]:
        """Token ids of trusted `text`, control tokens recognised. `at_start`: it opens the whole prompt."""
        ids: list[int] = []
        for position, part in enumerate(self._split(text)):
            if isinstance(part, int):
                ids.append(part)
            elif part:
                prefixed = at_start if position == 0 else self._prefix_after_control
                ids.extend((self._native if prefixed else self._bare).encode(part)[0])
        return ids

    def first_control(self, text: str) -> int | None:
        """The id of the first special token written in trusted `text`, or None."""
        found = (self._control[match.group()] for match in self._pattern.finditer(text))
        return next((index for index, added in found if added.special), None)

    def _piece_by_piece(self, piece: str) -> list[int]:
        ids = [index for character in piece for index in self._bare.piece_ids(character)]
        if not self.forbidden_ids.isdisjoint(ids):
            raise InputError(f"this tokenizer has no way to write {piece!r} as plain text; remove it from the text")
        return ids

    def _split(self, text: str) -> list[str | int]:
        """Text parts and control-token ids in turn; the first entry is always a text part (perhaps empty)."""
        parts: list[str | int] = []
        begin, strip_left = 0, False
        for match in self._pattern.finditer(text):
            index, added = self._control[match.group()]
            part = text[begin : match.start()]
            part = part.lstrip() if strip_left else part
            parts += [part.rstrip() if added.lstrip else part, index]
            begin, strip_left = match.end(), added.rstrip
        last = text[begin:]
        return [*parts, last.lstrip() if strip_left else last]

    def _adds_prefix_after_control(self, tokenizer: Any) -> bool:
        """Whether the tokenizer puts a space of its own after a control token, as older Llama ones do."""
        special = next((content for content, (_, added) in self._control.items() if added.special), None)
        native = self._native.encode("a")[0]
        if special is None or native == self._bare.encode("a")[0]:
            return False
        return bool(tokenizer.encode(special + "a", add_special_tokens=False)[1:] == native)


def check_text(text: str, what: str = "the text") -> None:
    """Raise InputError unless `text` is a string of whole characters. `what` names it in the message."""
    if not isinstance(text, str):
        raise InputError(f"{what} must be a string, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a character (a lone surrogate, U+{ord(text[error.start]):04X}) at position "
            f"{error.start}; read the file again as UTF-8, for example with errors='replace'"
        ) from None


def _forbidden_ids(tokenizer: Any, mask_token_id: int, template_text: str) -> frozenset[int]:
    """Ids untrusted text must never produce.

    The unknown token stays allowed unless it doubles as another control token: it is what a tokenizer without
    byte fallback writes for a strange character. So do byte pieces, which some tokenizers list among their
    special tokens.
    """
    added = tokenizer.added_tokens_decoder.items()
    forbidden = {index for index, token in added if token.special} | set(tokenizer.all_special_ids)
    forbidden |= {index for index, token in added if token.content.strip() and token.content in template_text}
    forbidden -= {index for index, token in added if _BYTE_PIECE.fullmatch(token.content)}
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        forbidden.discard(tokenizer.unk_token_id)
    return frozenset(forbidden | {mask_token_id})


def _any_of(contents: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest of `contents`; with none, a pattern that never matches."""
    longest_first = sorted((content for content in contents if content), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


Encoded = tuple[list[int], list[str]]  # token ids and the pieces they stand for, same length


class _RustEncoder:
    """A Rust tokenizer's pipeline without its added tokens; it shares the model and never changes.

    Without the space the tokenizer puts before a text, too, unless `keep_prefix`.
    """

    def __init__(self, backend: Tokenizer, *, keep_prefix: bool) -> None:
        self._twin = Tokenizer(backend.model)
        for name in ("normalizer", "pre_tokenizer"):
            component = getattr(backend, name)
            if component is not None and not keep_prefix:
                component = _without_prefix(component)
            if component is not None:
                setattr(self._twin, name, component)

    def encode(self, text: str) -> Encoded:
        # A batch of one: unlike `encode` it lets other threads run meanwhile, and a long text takes seconds.
        (encoding,) = self._twin.encode_batch([text], add_special_tokens=False)
        return encoding.ids, encoding.tokens

    def piece_ids(self, piece: str) -> list[int]:
        """Ids of a part of a piece, past normalizer and pre-tokenizer, which it has been through."""
        return [token.id for token in self._twin.model.tokenize(piece)]


class _PythonEncoder:
    """A tokenizer written in Python, told to split special tokens; spaces before a text are its affair."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> Encoded:
        ids = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return ids, self._tokenizer.convert_ids_to_tokens(ids)

    def piece_ids(self, piece: str) -> list[int]:
        return self.encode(piece)[0]


def _without_prefix(component: Any) -> Any:
    """A normalizer or pre-tokenizer that puts nothing before a text; None when nothing else is left of it."""
    try:
        original = json.loads(component.__getstate__())
    except Exception:  # a component written in Python has no state to edit; it is used as it is
        return component
    state = _drop_prefix(original)
    if state == original:
        return component
    if state is None:
        return None
    kind: Any = type(component)
    copy = kind([]) if kind.__name__ == "Sequence" else kind.__new__(kind)
    copy.__setstate__(json.dumps(state).encode())
    return copy


def _drop_prefix(state: Any) -> Any:
    if isinstance(state, list):
        return [kept for kept in map(_drop_prefix, state) if kept is not None]
    if not isinstance(state, dict):
        return state
    if state.get("type") == "Prepend":
        return None
    changes: dict[str, Any] = {"prepend_scheme": "never", "add_prefix_space": False}
    return {key: changes.get(key, _drop_prefix(value)) for key, value in state.items()}


# --- the chat template

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
