"""The texts that some bytes may carry, in the encodings in which a document could hide in a request.

Decoding is repeated, so base64 of JSON-escaped text is found as well. Knows nothing of what is looked for.
"""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Iterator
from urllib.parse import unquote

import numpy as np

DEPTH = 3  # encodings within encodings
_SHORTEST = 12  # characters of base64 or hexadecimal that are decoded: nine bytes of text

_LEAST_WIDE = 6  # characters of UTF-16 or UTF-32 in a row
_SPREAD = (2, 4)  # distances of bytes that are read as one text
_LEAST_SPREAD = 8  # characters of such text in a row


def _table(characters: bytes) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(characters)] = True
    return table


_BASE64 = _table(string.ascii_letters.encode() + string.digits.encode() + b"+/_-")
_HEXADECIMAL = _table(string.hexdigits.encode())
_ASCII = _table(bytes(range(0x20, 0x7F)))
_TEXT = _table(b"\t\n\r" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)))
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/bfnrt]))')
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def views(data: bytes, depth: int = DEPTH) -> Iterator[str]:
    """`data` read as UTF-8 (bytes that are none become spaces), then every text that is encoded in it."""
    text = data.decode("utf-8", "replace").replace("\ufffd", " ")
    yield text
    if depth == 0:
        return
    for decoded in (_unescaped(text), unquote(text)):
        if decoded != text:
            yield from views(decoded.encode("utf-8", "surrogatepass"), depth - 1)
    for inner in _decoded(data):
        yield from views(inner, depth - 1)


def spread_texts(data: bytes) -> Iterator[str]:
    """ASCII text in every second or fourth byte of `data`, with anything between."""
    numbers = np.frombuffer(data, dtype=np.uint8)
    for step in _SPREAD:
        for shift in range(step):
            part = numbers[shift::step]
            found = _stretches(_ASCII[part], _LEAST_SPREAD)
            yield "\n".join(part[begin:end].tobytes().decode("ascii") for begin, end in found)


def _decoded(data: bytes) -> Iterator[bytes]:
    numbers = np.frombuffer(data, dtype=np.uint8)
    for begin, end in _stretches(_BASE64[numbers], _SHORTEST):
        run = data[begin:end].replace(b"-", b"+").replace(b"_", b"/")
        for shift in range(4):  # text that was encoded may begin anywhere in the run
            part = run[shift:]
            part = part[:-1] if len(part) % 4 == 1 else part  # a length that base64 never has
            yield base64.b64decode(part + b"=" * (-len(part) % 4))
    for begin, end in _stretches(_HEXADECIMAL[numbers], _SHORTEST):
        for shift in range(2):
            part = data[begin + shift : end]
            yield bytes.fromhex(part[: len(part) // 2 * 2].decode())
    text, zero = _TEXT[numbers], numbers == 0
    for shift in range(4):
        size = (len(data) - shift) // 4
        letter, idle = (part[shift : shift + 4 * size].reshape(size, 4) for part in (text, zero))
        little = letter[:, 0] & idle[:, 1:].all(axis=1)
        big = letter[:, 3] & idle[:, :3].all(axis=1)
        for quads, encoding in ((little, "utf-32-le"), (big, "utf-32-be")):
            for begin, end in _stretches(quads, _LEAST_WIDE):
                yield data[shift + 4 * begin : shift + 4 * end].decode(encoding).encode()
    for first, second, encoding in ((text, zero, "utf-16-le"), (zero, text, "utf-16-be")):
        for shift in range(2):
            pairs = first[shift:-1:2] & second[shift + 1 :: 2]
            for begin, end in _stretches(pairs, _LEAST_WIDE):
                yield data[shift + 2 * begin : shift + 2 * end].decode(encoding, "replace").encode("utf-8", "replace")


def _stretches(mask: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """(begin, end) of every run of True in `mask` that is at least so long; as fast for noise as for text."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    long = ends - begins >= shortest
    return list(zip(begins[long].tolist(), ends[long].tolist(), strict=True))


def _unescaped(text: str) -> str:
    """JSON's escapes as the characters they stand for, wherever they are; half a pair stays what it is."""

    def character(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2])

    decoded = _ESCAPE.sub(character, text)
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
