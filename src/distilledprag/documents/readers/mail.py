"""E-mails (.eml, Outlook's .msg) -> blocks: sender and date, the body, and attachments of types that can be read."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
import struct
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path, PurePosixPath
from typing import Any

from distilledprag.documents.passages import Block, Outline, ReadDocument, clean
from distilledprag.documents.readers.html import decode_html, html_blocks
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.text import add_text
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError, InputError

_HEADERS = ("From", "To", "Cc", "Date")
DEEPEST = 5  # messages within messages
_TOO_DEEP = "a message within others is not read; save it as a file of its own"

# Outlook's numbers of properties, of kinds of values, and bytes before the properties.
_CLASS, _SUBJECT, _TOPIC, _SENT, _DELIVERED, _START, _END = 0x001A, 0x0037, 0x0070, 0x0039, 0x0E06, 0x0060, 0x0061
_BODY, _RICH_TEXT, _HTML, _INTERNET_HEADERS = 0x1000, 0x1009, 0x1013, 0x007D
_SENDER_NAME, _BEHALF_NAME, _SENDER_SMTP, _SENDER_ADDRESS = 0x0C1A, 0x0042, 0x5D01, 0x0C1F
_NAME, _ADDRESS, _SMTP_ADDRESS, _RECIPIENT_KIND, _TO, _CC = 0x3001, 0x3003, 0x39FE, 0x0C15, 1, 2
_ATTACHED, _ATTACH_METHOD, _MESSAGE_WITHIN, _FILE_NAME, _LONG_FILE_NAME = 0x3701, 0x3705, 5, 0x3704, 0x3707
_CODE_PAGE, _INTERNET_CODE_PAGE = 0x3FFD, 0x3FDE
_NUMBER, _DATE, _BYTE_TEXT, _UNICODE, _BYTES = 0x0003, 0x0040, 0x001E, 0x001F, 0x0102
_TEXTS = {
    _CLASS, _SUBJECT, _TOPIC, _BODY, _HTML, _INTERNET_HEADERS, _SENDER_NAME, _BEHALF_NAME, _SENDER_SMTP, _SENDER_ADDRESS, _NAME,
    _ADDRESS, _SMTP_ADDRESS, _FILE_NAME, _LONG_FILE_NAME,
}  # fmt: skip
_FILE_HEADER, _WITHIN_HEADER, _PART_HEADER = 32, 24, 8
_PROPERTY = re.compile(r"__substg1\.0_([0-9A-F]{4})([0-9A-F]{4})", re.IGNORECASE)
_WITHIN = "__substg1.0_3701000D"
_FIRST_DATE = datetime(1601, 1, 1, tzinfo=UTC)
_BETWEEN = b"\v\f\v"  # texts do not hold it


def read_eml(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """A message as Internet mail. Raises DocumentError for what is none."""
    message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    if not any(message.get(name) for name in (*_HEADERS, "Subject", "Received", "Message-ID")):
        raise DocumentError(f"{file} is no e-mail (it has neither sender nor subject); save the message again as .eml")
    return _Message(file, DEEPEST, ocr).read(message)


def read_msg(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """A message that Outlook saved. Raises DocumentError for what is none."""
    import olefile
    from oxmsg.storage import Storage

    try:
        with olefile.OleFileIO(file) as opened:
            whole = Storage.from_ole(opened)
        message = _OutlookItem(whole, _FILE_HEADER, file)
    except Exception as error:
        raise DocumentError(f"{file} cannot be read as an Outlook message ({error}); save it again as .msg or .eml") from error
    return _Message(file, DEEPEST, ocr).read_outlook(message)


class _OutlookItem:
    """The properties of a message, recipient or attachment in Outlook's format (MS-OXMSG), by their numbers (MS-OXPROPS).

    Numbers and dates stand in one stream, after a header whose bytes depend on the kind of item; texts and bytes in streams of
    their own. Texts of older versions are in a code page that the message names, not always rightly.
    """

    def __init__(self, storage: Any, header: int, file: Path) -> None:
        """Raises KeyError without the stream of properties."""
        self.storage, self._file = storage, file
        streams = {stream.name: stream.bytes_ for stream in storage.streams}
        fixed = streams["__properties_version1.0"][header:]
        self._fixed = {
            number: (kind, value) for kind, number, value in struct.iter_unpack("<HH4x8s", fixed[: len(fixed) // 16 * 16])
        }
        values: dict[int, dict[int, bytes]] = {}  # kind -> number -> value
        for name, value in streams.items():
            if found := _PROPERTY.fullmatch(name):
                values.setdefault(int(found[2], 16), {})[int(found[1], 16)] = value
        self.data = values.get(_BYTES, {})
        self.notes: tuple[str, ...] = ()
        self._texts = {number: value.decode("utf-16-le", "replace") for number, value in values.get(_UNICODE, {}).items()}
        if old := {
            number: value for number, value in values.get(_BYTE_TEXT, {}).items() if number in _TEXTS - self._texts.keys()
        }:
            # One code page for all: the longer the text, the better it can be guessed.
            joined = _BETWEEN.join(value.replace(b"\0", b"") for value in old.values())
            text, self.notes = self.decoded(joined, (_CODE_PAGE, _INTERNET_CODE_PAGE))
            self._texts |= zip(old, text.split(_BETWEEN.decode()), strict=False)

    def decoded(self, data: bytes, code_pages: Sequence[int]) -> tuple[str, tuple[str, ...]]:
        """Text in the first of the code pages, named by these properties, that fits; otherwise in one that is guessed."""
        from oxmsg.domain.encodings import encoding_from_codepage

        for number in code_pages:
            with contextlib.suppress(Exception):  # an unknown page, or not this one
                return data.decode(encoding_from_codepage(self.number(number) or 0)), ()
        return decode(data, str(self._file))

    def text(self, *numbers: int) -> str:
        """The first of these properties that is a text and not empty."""
        return next((text for number in numbers if (text := self._texts.get(number, "").strip("\0 "))), "")

    def number(self, number: int) -> int | None:
        kind, value = self._fixed.get(number, (0, b""))
        return int.from_bytes(value[:4], "little") if kind == _NUMBER else None

    def date(self, *numbers: int) -> str:
        """The first of these that is set, such as `2026-03-01 09:30+00:00`."""
        for number in numbers:
            kind, value = self._fixed.get(number, (0, b""))
            if kind == _DATE and (ticks := int.from_bytes(value, "little")):
                with contextlib.suppress(OverflowError):
                    return (_FIRST_DATE + timedelta(microseconds=ticks // 10)).isoformat(" ", "minutes")
        return ""

    def html(self) -> tuple[str, tuple[str, ...]]:
        """The body as HTML; empty without one."""
        if data := self.data.get(_HTML):
            return (
                self.decoded(data, (_INTERNET_CODE_PAGE,))
                if self.number(_INTERNET_CODE_PAGE)
                else decode_html(data, str(self._file))
            )
        return self.text(_HTML), ()

    def person(self, names: Sequence[int], addresses: Sequence[int]) -> str:
        """`Anna Berg <anna@example.org>`; an address within a company's Exchange server says nothing and is left out."""
        name, address = self.text(*names), next((text for one in addresses if "@" in (text := self.text(one))), "")
        return f"{name} <{address}>" if name and address and name.strip("\"'") != address else name or address

    def parts(self, prefix: str) -> list[_OutlookItem]:
        """Its recipients or attachments."""
        return [_OutlookItem(each, _PART_HEADER, self._file) for each in self.storage.storages if each.name.startswith(prefix)]


class _Message:
    """Gathers one message's blocks. depth: how many messages may still be within this one; ocr: for attached scans."""

    def __init__(self, file: Path, depth: int, ocr: Ocr | None) -> None:
        self._file, self._depth, self._ocr = file, depth, ocr
        self._blocks: list[Block] = []
        self._subject = ""
        self.notes: list[str] = []

    def read(self, message: EmailMessage) -> ReadDocument:
        self.begin(str(message.get("Subject", "")), {name: str(message.get(name, "")) for name in _HEADERS})
        body = message.get_body(("html", "plain")) if message.get_content_maintype() != "message" else None
        if body is not None:
            self._add_body(body)
        inside = set(map(id, body.walk())) if body is not None else set()
        alternatives = {
            id(part)
            for whole in message.walk()
            if whole.get_content_type() == "multipart/alternative"
            for part in whole.iter_parts()
        }
        for part in self._own_parts(message):
            if id(part) in inside:
                continue
            name = part.get_filename() or ""
            if part.get_content_type() == "message/rfc822":
                self._add_message(part)
            elif part.get_content_maintype() == "text" and not name and id(part) not in alternatives:
                self._add_body(part)  # what stands between or after attachments
            elif name and (part.get_content_disposition() == "attachment" or not part.get_content_type().startswith("image/")):
                self.add_attachment(name, _payload(part))
        return self.finish()

    def read_outlook(self, item: _OutlookItem) -> ReadDocument:
        sent = email.message_from_string(item.text(_INTERNET_HEADERS), policy=email.policy.default)
        people: dict[int | None, list[str]] = {}
        for recipient in item.parts("__recip_version1.0_#"):
            who = recipient.person((_NAME,), (_SMTP_ADDRESS, _ADDRESS))
            people.setdefault(recipient.number(_RECIPIENT_KIND), []).append(who)
        sender = item.person((_SENDER_NAME, _BEHALF_NAME), (_SENDER_SMTP, _SENDER_ADDRESS))
        kind = item.text(_CLASS).removeprefix("IPM.").split(".")[0].lower()
        headers = {
            "From": str(sent.get("From", "")) or sender,
            "To": ", ".join(people.get(_TO, [])),
            "Cc": ", ".join(people.get(_CC, [])),
            "Date": item.date(_SENT, _DELIVERED),
        }
        if kind == "appointment":
            headers |= {"Start": item.date(_START), "End": item.date(_END)}
        self.begin(item.text(_SUBJECT, _TOPIC), headers)
        self.notes += item.notes
        html, notes = item.html()
        if html.strip():
            self.notes += notes
            self.add_html(html)
        elif body := item.text(_BODY):
            self.add_plain(body)
        elif _RICH_TEXT in item.data:
            self.notes.append("the message has no body in plain text or HTML; what it may hold as rich text is not read")
        if kind in ("appointment", "contact", "task", "distlist"):
            self.notes.append(f"of this {kind} only subject, persons, dates and text are read, not its other fields")
        for attachment in item.parts("__attach_version1.0_#"):
            name = attachment.text(_LONG_FILE_NAME, _FILE_NAME, _NAME)
            within = next((each for each in attachment.storage.storages if each.name == _WITHIN), None)
            if within is not None and attachment.number(_ATTACH_METHOD) == _MESSAGE_WITHIN:
                self._add_within(within, name)
            else:
                self.add_attachment(name, attachment.data.get(_ATTACHED))
        return self.finish()

    def _add_within(self, storage: Any, name: str) -> None:
        if self._depth == 0:
            self.notes.append(_TOO_DEEP)
            return
        try:
            item = _OutlookItem(storage, _WITHIN_HEADER, self._file)
        except KeyError:
            self.notes.append(f"the attached message {clean(name) or 'without a name'} is damaged and not read")
            return
        read = _Message(self._file, self._depth - 1, self._ocr).read_outlook(item)
        self._blocks += read.blocks
        self.notes += read.notes

    def _own_parts(self, message: Any) -> list[Any]:
        """The parts that are not containers, without those of messages within."""
        if message.get_content_type() == "message/rfc822" or not message.is_multipart():
            return [message]
        return [part for inner in message.iter_parts() for part in self._own_parts(inner)]

    def begin(self, subject: str, headers: dict[str, str]) -> None:
        self._subject = clean(subject)
        outline = Outline(self._subject)
        outline.add(
            "; ".join(f"{name}: {clean(value)}" for name, value in {"Subject": subject, **headers}.items() if value.strip())
        )
        self._blocks += outline.finish()

    def _add_body(self, part: Any) -> None:
        try:
            text, notes = decode(_payload(part), str(self._file), part.get_content_charset())
        except InputError:
            self.notes.append("a part of the message is no text and not read")
            return
        self.notes += notes
        (self.add_html if part.get_content_type() == "text/html" else self.add_plain)(text)

    def add_html(self, html: str) -> None:
        self._blocks += html_blocks(html, Outline(self._subject))

    def add_plain(self, text: str) -> None:
        outline = Outline(self._subject)
        add_text(outline, text)
        self._blocks += outline.finish()

    def _add_message(self, part: Any) -> None:
        if self._depth == 0:
            self.notes.append(_TOO_DEEP)
            return
        for inner in part.iter_parts():
            read = _Message(self._file, self._depth - 1, self._ocr).read(inner)
            self._blocks += read.blocks
            self.notes += read.notes

    def add_attachment(self, name: str, data: bytes | None) -> None:
        """Read an attached file, or note that it is not read."""
        from distilledprag.documents.readers import read, readable  # which import this module

        shown = clean(name) or "without a name"
        suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
        if suffix not in readable(self._ocr is not None) or not data or self._depth == 0:
            self.notes.append(f"the attachment {shown} is not read")
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"attachment{suffix}"
            file.write_bytes(data)
            try:
                found = read(file, self._ocr)
            except InputError as error:
                self.notes.append(f"the attachment {str(error).replace(str(file), shown)}")
                return
        self._blocks += (
            Block(block.text, f"{shown}: {block.title}" if block.title else shown, block.kind) for block in found.blocks
        )
        self.notes += (f"the attachment {shown}: {note}" for note in found.notes)

    def finish(self) -> ReadDocument:
        return ReadDocument(tuple(self._blocks), tuple(dict.fromkeys(self.notes)))


def _payload(part: Any) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""
