"""What some bytes may carry: texts in the encodings in which a document could hide in a request, and token ids among raw numbers.

Decoding is repeated, so base64 of JSON-escaped text is found as well. R = runs of token ids, W = bytes of a number.
"""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np

RUN = 3  # words or tokens in a row that must not leave
DEPTH = 3  # encodings within encodings
_SHORTEST = 12  # characters of base64 or hexadecimal that are decoded: nine bytes of text
_LEAST_WIDE = 6  # characters of UTF-16 or UTF-32 in a row
_SPREAD = (2, 4)  # distances of bytes that are read as one text
_LEAST_SPREAD = 8  # characters of such text in a row
STRIDES = range(1, 33)  # distances, in numbers, at which ids are looked for, besides the tensors' widths


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


def holds_token_run(data: bytes, token_runs: Collection[tuple[int, ...]], widths: Iterable[int] = (), length: int = RUN) -> bool:
    """Whether `length` ids stand in `data`, forwards or backwards, of which every three in a row are one of `token_runs`.

    Integers and floats of several widths are looked for, side by side or at equal distances. An adapter's numbers are noise to
    this check, and small: states in bytes lie near zero, as the ids of frequent tokens do, so that three of these can stand there
    by chance, eight cannot. Runs with the token 0, or of one token only, are left out. widths: of rows, in numbers.
    """
    forwards = {run for run in token_runs if 0 not in run and len(set(run)) > 1}
    if not forwards:
        return False
    strides = sorted({*STRIDES, *widths})
    directions = (forwards, {run[::-1] for run in forwards})
    codes = (code for runs in directions for code in _codes(np.array(sorted(runs), dtype=np.int64)))
    return any(code.found_in(data, strides, length) for code in codes)


@dataclass(frozen=True)
class _Code:
    """A way to write ids as numbers. runs: (R, 3), unsigned integers with the numbers' bits, low byte first; telling: the place,
    in bytes, of the 16 bits in which they differ most."""

    runs: np.ndarray
    telling: int

    def found_in(self, data: bytes, strides: Iterable[int], length: int) -> bool:
        """From every byte that a number may begin at: looks for first ids by their telling bits, then for the other two."""
        width = self.runs.dtype.itemsize
        wanted = set(map(tuple, self.runs.tolist()))
        table = np.zeros(2**16, dtype=bool)
        table[(self.runs[:, 0] >> (8 * self.telling)) & 0xFFFF] = True
        for shift in range(width):
            size = (len(data) - shift) // width
            if size < RUN:
                continue
            numbers = np.frombuffer(data, dtype=self.runs.dtype, count=size, offset=shift)
            halves = np.frombuffer(data, dtype="<u2", count=size * width // 2, offset=shift)[self.telling // 2 :: width // 2]
            begins = np.flatnonzero(table[halves])
            begins = begins[np.isin(numbers[begins], self.runs[:, 0])]
            if len(begins) and any(self._has_run(numbers, begins, stride, wanted, length) for stride in strides):
                return True
        return False

    def _has_run(self, numbers: np.ndarray, begins: np.ndarray, stride: int, wanted: set[tuple[int, ...]], length: int) -> bool:
        begins = begins[begins + (RUN - 1) * stride < len(numbers)]
        begins = begins[np.isin(numbers[begins + stride], self.runs[:, 1])]
        found = {begin for begin in begins.tolist() if tuple(numbers[begin : begin + RUN * stride : stride].tolist()) in wanted}
        return any(all(begin + step * stride in found for step in range(length - RUN + 1)) for begin in found)


def _codes(runs: np.ndarray) -> Iterator[_Code]:
    """The ways that are looked for; of each the runs that can be written in it. Ids of 64 bits are such of 32, two apart."""
    short = runs[(runs < 2**16).all(axis=1)].astype("<u2")
    yield _Code(short, 0)
    yield _Code(short.byteswap(), 0)
    yield _Code(runs.astype("<u4"), 0)
    yield _Code(runs.astype("<u4").byteswap(), 2)
    for kind, bits in (("<f2", "<u2"), ("<f4", "<u4"), ("<f8", "<u8")):
        with np.errstate(over="ignore"):
            floats = runs.astype(kind)
        exact = (floats.astype(np.float64) == runs).all(axis=1)
        width = floats.dtype.itemsize
        yield _Code(floats[exact].view(bits), width - 2)
        if kind == "<f4":  # bfloat16 is its upper half
            upper = floats[(floats.view("<u4") & 0xFFFF == 0).all(axis=1)].view("<u4") >> 16
            yield _Code(upper.astype("<u2"), 0)
