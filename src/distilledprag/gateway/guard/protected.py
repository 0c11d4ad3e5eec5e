"""What must not leave: runs of words and of tokens, and rare words, of passages - less what the user's own words contain; and the
texts and token ids that some bytes may carry.

Texts are compared as case-folded words. What may stand in a prompt (`AllowedRuns`) are runs of the frame and of the user's own
messages, also those that only come about at a joint: the end of a message and then the frame, for instance.

Bytes are read in the encodings in which a document could hide in a request (`views`), and as raw numbers that may be token ids.
Decoding is repeated, so base64 of JSON-escaped text is found as well. R = runs of token ids, W = bytes of a number.
"""

from __future__ import annotations

import base64
import re
import string
import unicodedata
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import numpy as np

from distilledprag.http.errors import RequestError

RUN = 3  # words or tokens in a row that must not leave
DEPTH = 3  # encodings within encodings
_SHORTEST = 12  # characters of base64 or hexadecimal that are decoded: nine bytes of text
_LEAST_WIDE = 6  # characters of UTF-16 or UTF-32 in a row
_SPREAD = (2, 4)  # distances of bytes that are read as one text
_LEAST_SPREAD = 8  # characters of such text in a row
STRIDES = range(1, 33)  # distances, in numbers, at which ids are looked for, besides the tensors' widths
LONG_ENOUGH = 4  # characters of a rare word that is looked for in bytes that are not a prompt
_LONG_IN_BINARY = 7  # bytes; random ones hold a given word of so many once in some million adapters
_LONG_RUN = 8  # token ids that an adapter's numbers do not hold by chance
_ZEROS = 3  # in a row that are kept of an adapter's numbers: UTF-32 has so many

# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+", re.UNICODE)
_CHARACTER = re.compile(f"[{_UNSPACED}]")


def written_words(text: str) -> list[str]:
    """The words of a text (letters and digits; NFKC), as they are written."""
    return _WORD.findall(unicodedata.normalize("NFKC", text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """(begin, end) of the words of a text in NFKC."""
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words of a text, case-folded."""
    return [word.casefold() for word in written_words(text)]


def is_character(word: str) -> bool:
    """Whether a word is one character of a language that writes no spaces."""
    return _CHARACTER.fullmatch(word) is not None


def runs(items: Sequence, length: int = RUN) -> set[tuple]:
    """All runs of `length` neighbouring items."""
    return {tuple(items[start : start + length]) for start in range(len(items) - length + 1)}


def rare_words(text: str) -> set[str]:
    """Names, numbers and identifiers of a text, case-folded: words with a digit or a capital letter."""
    return {
        word.casefold()
        for word in written_words(text)
        if any(character.isdigit() or character.isupper() for character in word)
    }  # fmt: skip


class WireGuardError(RequestError):
    """The guard stopped a request to the engine; nothing was sent."""

    status, kind, code = 500, "server_error", "wire_guard"


class AllowedRuns:
    """Sequences of words, or of tokens, that may stand in a prompt.

    `frame`: what the prompt's form writes, which may be cut anywhere; `messages`: the user's, each kept whole.
    """

    def __init__(self, frame: Iterable[Sequence[Hashable]], messages: Iterable[Sequence[Hashable]]) -> None:
        assert RUN == 3  # `allows` spells out the ways in which a run of three can be cut
        frame, messages = [list(items) for items in frame], [list(items) for items in messages if items]
        self.items: frozenset[Any] = frozenset(item for items in [*frame, *messages] for item in items)
        self._inside = {run for items in [*frame, *messages] for run in runs(items)}
        single = {(item,) for items in frame for item in items}
        double = {pair for items in frame for pair in pairwise(items)}
        self._begins = single | double | {tuple(items[:size]) for items in messages for size in (1, 2)}
        self._ends = single | double | {tuple(items[-size:]) for items in messages for size in (1, 2)}
        self._wholes = single | {tuple(items) for items in messages if len(items) == 1}

    def allows(self, run: Sequence[Hashable]) -> bool:
        """Whether a run of three can be written with these sequences alone."""
        run = tuple(run)
        return (
            run in self._inside
            or any(run[:cut] in self._ends and run[cut:] in self._begins for cut in (1, 2))
            or (run[:1] in self._ends and run[1:2] in self._wholes and run[2:] in self._begins)
        )


@dataclass(frozen=True)
class Protected:
    """word_runs and token_runs: of three each; rare: case-folded names, numbers and identifiers."""

    word_runs: frozenset[tuple[str, ...]]
    token_runs: frozenset[tuple[int, ...]]
    rare: frozenset[str]

    @classmethod
    def of(
        cls, passages: Iterable[str], passage_ids: Iterable[Sequence[int]], allowed_words: AllowedRuns, allowed_ids: AllowedRuns
    ) -> Protected:
        """passages with their token ids; allowed: what the prompt's frame and the user's own messages say."""
        word_runs: set[tuple[str, ...]] = set()
        token_runs: set[tuple[int, ...]] = set()
        rare: set[str] = set()
        for passage in passages:
            word_runs |= runs(words(passage))
            rare |= rare_words(passage)
        for ids in passage_ids:
            token_runs |= runs(ids)
        return cls(
            frozenset(run for run in word_runs if not allowed_words.allows(run)),
            frozenset(run for run in token_runs if not allowed_ids.allows(run)),
            frozenset(rare - allowed_words.items),
        )

    def check_text(self, text: str, where: str) -> None:
        """Raise WireGuardError when `text`, which should be free of documents, is not. Never says what was found."""
        found = words(text)
        if self._word_runs_in(found):
            raise _leak(f"{RUN} words of a document in a row", where)
        if not self.rare.isdisjoint(found):
            raise _leak("a name or number of a document", where)

    def check_ids(self, ids: Sequence[int], where: str) -> None:
        """As `check_text`, for token ids."""
        if not self.token_runs.isdisjoint(runs(ids)):
            raise _leak(f"{RUN} tokens of a document in a row", where)

    def check_bytes(self, data: bytes, where: str, harmless: Iterable[str] = ()) -> None:
        """As `check_text`, over all texts that `data` may carry in the encodings of `views`.

        Numbers and short words are left to the checks of structure, since token ids are numbers too; `harmless`: words
        that belong to the form of the request.
        """
        wanted = {word for word in self.rare - set(harmless) if len(word) >= LONG_ENOUGH and not word.isdecimal()}
        for text in views(data):
            found = words(text)
            if any(not all(word.isdecimal() for word in run) for run in self._word_runs_in(found)):
                raise _leak(f"{RUN} words of a document in a row", where)
            if not wanted.isdisjoint(found):
                raise _leak("a name of a document", where)

    def check_tensors(self, data: bytes, where: str, widths: Iterable[int] = ()) -> None:
        """As `check_text`, over raw numbers: text forwards and backwards, and token ids as numbers. `widths`: of the rows.

        Weights are noise to this check: only words and runs too long to be there by chance count.
        """
        wanted = {word for word in self.rare if len(word.encode()) >= _LONG_IN_BINARY}
        for text in (*views(_without_long_zeros(data)), *spread_texts(data)):
            forwards = words(text)
            backwards = [word[::-1] for word in reversed(forwards)]
            for found in (forwards, backwards):
                hits = self._word_runs_in(found)
                if any(len("".join(run).encode()) >= _LONG_IN_BINARY for run in hits) or not wanted.isdisjoint(found):
                    raise _leak("words of a document", where)
        if holds_token_run(data, self.token_runs, widths, _LONG_RUN):
            raise _leak(f"{_LONG_RUN} tokens of a document in a row", where)

    def _word_runs_in(self, found: Sequence[str]) -> set[tuple[str, ...]]:
        """The protected runs among neighbouring words."""
        first = {run[0] for run in self.word_runs}
        places = [place for place, word in enumerate(found) if word in first]
        return {run for place in places if (run := tuple(found[place : place + RUN])) in self.word_runs}


def _without_long_zeros(data: bytes) -> bytes:
    """At most three zero bytes in a row: an adapter is mostly zeros, which hold no text and hide none."""
    numbers = np.frombuffer(data, dtype=np.uint8)
    zero = numbers == 0
    idle = zero.copy()
    for back in range(1, _ZEROS + 1):
        idle[back:] &= zero[:-back]
    idle[:_ZEROS] = False
    return numbers[~idle].tobytes()


def _leak(what: str, where: str) -> WireGuardError:
    return WireGuardError(
        f"the guard found {what} in {where} and sent nothing; this is a fault of the program, please report it without the "
        "document"
    )


# --- what bytes may carry


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
        little = letter[:, 0] & idle[:, 1] & idle[:, 2] & idle[:, 3]
        big = letter[:, 3] & idle[:, 0] & idle[:, 1] & idle[:, 2]
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
    bounded = np.zeros(len(mask) + 2, dtype=bool)
    bounded[1:-1] = mask
    edges = np.flatnonzero(bounded[1:] != bounded[:-1])
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
        """From every byte that a number may begin at: looks for ids by their telling bits, then compares whole runs."""
        width = self.runs.dtype.itemsize
        wanted = set(map(tuple, self.runs.tolist()))
        first, second, third = (_table_of(ids) for ids in ((self.runs >> (8 * self.telling)) & 0xFFFF).T)
        for shift in range(width):
            size = (len(data) - shift) // width
            if size < RUN:
                continue
            numbers = np.frombuffer(data, dtype=self.runs.dtype, count=size, offset=shift)
            halves = np.frombuffer(data, dtype="<u2", count=size * width // 2, offset=shift)[self.telling // 2 :: width // 2]
            begins = np.flatnonzero(first[halves])
            for stride in strides if len(begins) else ():
                places = begins[begins < size - (RUN - 1) * stride]
                places = places[second[halves[places + stride]]]
                places = places[third[halves[places + 2 * stride]]].tolist()
                found = {at for at in places if tuple(numbers[at : at + RUN * stride : stride].tolist()) in wanted}
                if any(all(at + step * stride in found for step in range(length - RUN + 1)) for at in found):
                    return True
        return False


def _table_of(values: np.ndarray) -> np.ndarray:
    """Which numbers of 16 bits are among `values`."""
    table = np.zeros(2**16, dtype=bool)
    table[values] = True
    return table


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
