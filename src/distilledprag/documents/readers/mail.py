"""E-mails (.eml, Outlook's .msg) -> blocks: sender and date, the body, and attachments of types that can be read."""

from __future__ import annotations

import email
import email.policy
import tempfile
from email.message import EmailMessage
from pathlib import Path, PurePosixPath
from typing import Any

from distilledprag.documents.passages import Block, Outline, clean
from distilledprag.documents.readers.html import html_blocks
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.text import add_text
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError, InputError

_HEADERS = ("From", "To", "Cc", "Date")
DEEPEST = 5  # messages within messages


def read_eml(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """A message as Internet mail. Raises DocumentError for what is none."""
    message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    if not any(message.get(name) for name in (*_HEADERS, "Subject", "Received", "Message-ID")):
        raise DocumentError(f"{file} is no e-mail (it has neither sender nor subject); save the message again as .eml")
    return _Message(file, DEEPEST, ocr).read(message)


def read_msg(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """A message that Outlook saved. Raises DocumentError for what is none."""
    import oxmsg

    try:
        message = oxmsg.Message.load(str(file))
    except Exception as error:
        raise DocumentError(f"{file} cannot be read as an Outlook message ({error}); save it again as .msg or .eml") from error
    reading = _Message(file, DEEPEST, ocr)
    to = ", ".join(recipient.name or recipient.email_address for recipient in message.recipients)
    date = message.sent_date.isoformat(" ", "minutes") if message.sent_date else ""
    reading.begin(message.subject or "", {"From": message.sender or "", "To": to, "Date": date})
    if message.html_body:
        reading.add_html(message.html_body)
    elif message.body:
        reading.add_plain(message.body)
    else:
        reading.notes.append("the message has no body in plain text or HTML")
    for attachment in message.attachments:
        reading.add_attachment(attachment.file_name or "", attachment.file_bytes)
    return reading.finish()


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
            self.notes.append("a message within others is not read; save it as a file of its own")
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
