"""Bytes of a text file -> text: byte order marks, declared encodings, UTF-8."""

from __future__ import annotations

import re

from distilledprag.errors import InputError

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SIGNATURES = {
    b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a Word or ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Word or Office file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def decode(data: bytes, name: str, declared: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text of the file `name`, and notes for the user on how its encoding was found.

    By its byte order mark, else as the `declared` encoding, else UTF-8.

    Raises InputError for a binary file and for text in another encoding.
    """
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            raise InputError(f"{name} is {kind} in spite of its name; rename it to its true type, or convert it to text")
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        raise InputError(f"{name} is a binary file; give a text, Markdown, HTML, PDF, Word or JSONL file")
    encoding = encoding or declared or "utf-8"
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{name} is not {encoding.upper()} text{place}; save it again as UTF-8") from error
    if len(_CONTROL.findall(text)) > 0.01 * len(text):
        raise InputError(f"{name} is a binary file; give a text, Markdown, HTML, PDF, Word or JSONL file")
    return text, ()
