"""Bytes of a text file -> text, as browsers do it: byte order mark, declared label (WHATWG), UTF-8, and a guess with a note.

The labels mean what they mean on the web: `iso-8859-1` is windows-1252, `gb2312` is gb18030, `shift_jis` is Microsoft's superset.
"""

from __future__ import annotations

import re

from distilledprag.errors import InputError

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_SIGNATURES = {
    b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a Word or ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Word or Office file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_MULTIBYTE = re.compile("[\x80-\ufffc\ufffe-\U0010ffff]")  # what UTF-8 writes with several bytes, without U+FFFD
# What Western European text has besides ASCII in windows-1252; other letters and signs there speak against it.
_WESTERN = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ€£§°«»‘’“”„–—…•·©®™²³½¼¾×±µªº¿¡\xa0")
# The encodings that the web still has, apart from UTF-8. Guessing among all that exist would find rare ones by accident.
_GUESSED = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874", "koi8_r",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
]  # fmt: skip
_SAMPLE = 50_000  # bytes that a guess looks at


def decode(data: bytes, name: str, declared: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text of the file `name`, and notes for the user where its encoding was guessed or bytes were unreadable.

    declared: the label in the file itself, such as HTML's `charset`. Raises InputError for a binary file.
    """
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            raise InputError(f"{name} is {kind} in spite of its name; rename it to its true type, or convert it to text")
    text, notes = _decode(data, name, declared)
    if len(_CONTROL.findall(text)) > 0.01 * len(text):
        raise InputError(f"{name} is a binary file; give a text file or one of the other supported types")
    return text, notes


def _decode(data: bytes, name: str, declared: str | None) -> tuple[str, tuple[str, ...]]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _replacing(data[len(mark) :], encoding)
    if b"\0" in data:
        return _wide(data, name)
    codec = _codec(declared, name) if declared else None
    if codec and codec != "utf-8":
        return _replacing(data, codec)
    try:
        return data.decode(), ()
    except UnicodeDecodeError as error:
        if codec or _mostly_utf8(data, error):
            return _replacing(data, "utf-8")
    codec = _guess(data, name)
    text, notes = _replacing(data, codec)
    shown = {"cp932": "shift_jis", "cp949": "euc-kr"}.get(codec, codec.replace("cp125", "windows-125"))
    guess = f"the file does not say its encoding, it was read as {shown} (a guess); if letters look wrong, save it as UTF-8"
    return text, (guess, *notes)


def _replacing(data: bytes, codec: str) -> tuple[str, tuple[str, ...]]:
    """The text, with U+FFFD where bytes are no letters of the encoding, and a note then."""
    try:
        return data.decode(codec), ()
    except UnicodeDecodeError:
        text = data.decode(codec, "replace")
    if codec == "cp1252":  # browsers show the five bytes without a letter as control characters, which are no loss
        return "".join(chr(byte) if byte in b"\x81\x8d\x8f\x90\x9d" else bytes([byte]).decode(codec) for byte in data), ()
    line = text[: text.index("\ufffd")].count("\n") + 1
    return text, (f"bytes that are not {codec} show as � ({text.count(chr(0xFFFD))} in all, the first in line {line})",)


def _codec(label: str, name: str) -> str | None:
    """Python's codec for a WHATWG label; None for an unknown one, and for UTF-16, which no file without NUL bytes is."""
    try:
        from webencodings import lookup
    except ModuleNotFoundError as error:
        raise InputError(f"reading {name} needs {error.name}: pip install 'distilledprag[documents]'") from error
    found = lookup(label)
    if found is None or found.name.startswith("utf-16") or found.name in ("replacement", "x-user-defined"):
        return None
    codec = found.codec_info.name
    return {"gbk": "gb18030", "gb2312": "gb18030"}.get(codec, codec)


def _wide(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """UTF-16 without a mark: text in ASCII letters, spaces or line ends has its NUL bytes all on one side of the pairs."""
    even, odd = data[::2].count(0), data[1::2].count(0)
    encoding = "utf-16-be" if even > odd else "utf-16-le"
    text, notes = _replacing(data, encoding)
    if even + odd < 0.25 * len(data) and _is_utf8(data.replace(b"\0", b"")):
        raise InputError(f"{name} holds NUL bytes, as binary files do; give a text file or one of the other supported types")
    if min(even, odd) > 0.05 * max(even, odd) or text.count("\ufffd") > 1 or "\0" in text:
        raise InputError(f"{name} is a binary file; give a text file or one of the other supported types")
    return text, (f"the file has no byte order mark, it was read as {encoding.upper()} (a guess)", *notes)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mostly_utf8(data: bytes, error: UnicodeDecodeError) -> bool:
    """Whether it is UTF-8 with a few bad bytes: letters of several bytes are many more than the errors."""
    text = data.decode(errors="replace")
    return len(_MULTIBYTE.findall(text)) > 3 * text.count("\ufffd")


def _guess(data: bytes, name: str) -> str:
    western = data.decode("cp1252", "replace")
    special = [character for character in western if character > "\x7f"]
    if set(special) <= _WESTERN and len(special) < 0.35 * len(western):
        return "cp1252"
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError as error:
        raise InputError(f"reading {name} needs {error.name}: pip install 'distilledprag[documents]'") from error
    found = from_bytes(data[:_SAMPLE], cp_isolation=_GUESSED).best()
    return found.encoding if found else "cp1252"
