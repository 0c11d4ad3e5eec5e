"""Looks for documents in what left the gateway, question by question, with code of its own: none of the guard's.

    HTTP      parts that are not requests; paths and headers: no word of a document, no number
    JSON      every list of numbers as token ids; every other value as asked for, and no word or number in any view of the body
    adapter   header: names, shapes and metadata free of documents; numbers: words, long numbers and token ids in several widths

What the question itself says is allowed for that question only. An adapter's numbers are noise: words and numbers under seven
bytes (of the passages that were used: under five), runs under seven bytes and fewer than eight token ids cannot be told from
chance there, and are not looked for.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from wire_recording import Exchange

LONG, LONG_USED = 7, 5  # bytes of a word that is looked for among an adapter's numbers
UNTOLD = ("content-length", "host", "authorization")  # headers whose values are the gateway's own numbers
IDS = 8  # token ids in a row that are looked for there
SIZES = {"I8": 1, "F16": 2}
ASKED = (8, 0.0, True, False)  # max_tokens, temperature, stream


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def to_bytes(self) -> bytes:
        headers = {**self.headers, "content-length": str(len(self.body))}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def requests_in(data: bytes) -> list[Request]:
    """The HTTP requests of a connection. Raises ValueError when anything else is in it."""
    found = []
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        method, path, version = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers.get("content-length", 0))
        if not mark or version != "HTTP/1.1" or len(rest) < size:
            raise ValueError("no HTTP request")
        found.append(Request(method, path, headers, rest[:size]))
        data = rest[size:]
    return found


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def runs(items, size=3) -> set[tuple]:
    return set(zip(*(items[start:] for start in range(size)), strict=False))


def is_rare(word: str) -> bool:
    return any(character.isdigit() or character.isupper() for character in word)


class Documents:
    """All documents, as words, rare words and runs of token ids."""

    def __init__(self, texts: dict[str, str], tokenizer, mask_id: int, empty_prompt):
        """empty_prompt: question -> ids of its prompt without documents."""
        self.tokenizer, self.mask_id, self.empty_prompt = tokenizer, mask_id, empty_prompt
        self.texts = texts
        self.rare = {name: {w.casefold() for w in re.findall(r"[^\W_]+", text) if is_rare(w)} for name, text in texts.items()}
        self.all_rare = set().union(*self.rare.values())
        self.runs = {run for text in texts.values() for run in runs(words(text))}
        ids = [tokenizer(" " + text, add_special_tokens=False).input_ids for text in texts.values()]
        self.id_runs = {run for own in ids for run in runs(own)}
        self.frame = set(words(tokenizer.decode(empty_prompt("x")))) - {"x"}


@dataclass(frozen=True)
class Audit:
    """One question's bytes."""

    documents: Documents
    exchange: Exchange

    @cached_property
    def asked(self) -> list[int]:
        return self.documents.empty_prompt(self.exchange.question)

    @cached_property
    def allowed(self) -> list[str]:
        return words(self.documents.tokenizer.decode(self.asked)) + words(self.exchange.question)

    @cached_property
    def rare(self) -> set[str]:
        return self.documents.all_rare - set(self.allowed)

    @cached_property
    def runs(self) -> set[tuple]:
        return self.documents.runs - runs(self.allowed)

    @cached_property
    def id_runs(self) -> set[tuple]:
        return self.documents.id_runs - runs(self.asked)

    def findings(self) -> list[tuple[str, str]]:
        """(where, what) for everything of a document that left."""
        found = []
        for data in self.exchange.sent:
            try:
                requests = requests_in(data)
            except ValueError:
                found.append(("HTTP", "bytes that are no request"))
                requests = []
            for request in requests:
                found += [("head", what) for what in self.in_head(request)]
                if request.path == "/v1/adapters" and request.body:
                    found += [("adapter", what) for what in self.in_adapter(request.body)]
                elif request.body:
                    found += [("JSON", what) for what in self.in_json(request.body)]
        return found

    def in_head(self, request: Request):
        told = {name: value for name, value in request.headers.items() if name not in UNTOLD}
        for text in (request.path, *told, *told.values()):
            yield from self.in_text(text.encode())

    def in_text(self, data: bytes):
        """Words and numbers of any length, in every view of `data`."""
        for view in views(data):
            seen = words(view.decode("utf-8", "replace"))
            yield from (f"word {word}" for word in self.rare & set(seen))
            yield from (f"run {run}" for run in self.runs & runs(seen))

    def in_json(self, body: bytes):
        lists: list[list[int]] = []
        scalars: list = []

        def walk(value):
            if isinstance(value, list) and value and all(type(item) is int for item in value):
                lists.append(value)
            elif isinstance(value, list | tuple):
                for item in value:
                    walk(item)
            else:
                scalars.append(value)

        try:
            walk(json.loads(body, object_pairs_hook=lambda pairs: [tuple(pair) for pair in pairs]))  # keeps repeated keys
        except ValueError:
            yield "no JSON"
        for ids in lists:
            kept = [index for index in ids if index != self.documents.mask_id]
            yield from (f"ids {run}" for run in self.id_runs & runs(ids))
            seen = words(self.documents.tokenizer.decode(kept))
            yield from (f"word {word}" for word in self.rare & set(seen))
            yield from (f"run {run}" for run in self.runs & runs(seen))
        yield from (f"setting {value}" for value in scalars if not isinstance(value, str) and value not in ASKED)
        rest = re.sub(rb"\[[0-9,\s]*\]", b"[]", body)
        yield from self.in_text(rest)

    def in_adapter(self, body: bytes):
        end = 8 + int.from_bytes(body[:8], "little")
        yield from self.in_header(json.loads(body[8:end]))
        data = body[end:]
        used = set().union(*(self.documents.rare[name] for name in self.exchange.documents))
        wanted = {word.encode() for word in self.rare if len(word) >= LONG}
        wanted |= {word.encode() for word in self.rare & used if len(word) >= LONG_USED}
        long_runs = {run for run in self.runs if sum(map(len, run)) >= LONG}
        hints = {max(run, key=len).encode() for run in long_runs}
        for view in views(data):
            seen = set(re.findall(rb"[a-z0-9]{4,}", view.lower()))
            yield from (f"word {word.decode()}" for word in wanted & seen)
            if hints & seen:
                yield from (f"run {run}" for run in long_runs & runs(words(view.decode("latin-1"))))
        for name, numbers in readings(data):
            if id_runs_in(numbers, self.id_runs, IDS):
                yield f"ids as {name}"

    def in_header(self, header: dict):
        """Shapes and offsets are numbers of their own: they must follow from each other; all else is text."""
        place = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
            if name == "__metadata__":
                text = re.sub(r'\\"layer\\":\s*[0-9]+', "", json.dumps(entry))
                yield from self.in_text(text.encode())
                continue
            yield from self.in_text(re.sub(r"\d+", "", name).encode())
            size = SIZES.get(entry["dtype"], 0) * int(np.prod(entry["shape"]))
            if entry.keys() != {"dtype", "shape", "data_offsets"} or entry["data_offsets"] != [place, place + size]:
                yield f"tensor {name} of another form"
            place += size


def views(data: bytes):
    """The bytes as they are, JSON's escapes and per cent undone, without zeros (UTF-16, UTF-32), and what base64 and hexadecimal
    hide."""
    yield data
    if b"\\u" in data:
        yield re.sub(rb"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)).encode("utf-8", "replace"), data)
    if b"%" in data:
        yield re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), data)
    if b"\x00" in data:
        yield data.replace(b"\x00", b"")
    for run in re.findall(rb"[A-Za-z0-9+/_-]{6,}", data):
        for start in range(4):
            cut = run[start:].translate(bytes.maketrans(b"-_", b"+/"))
            cut = cut[:-1] if len(cut) % 4 == 1 else cut  # a length that base64 never has
            yield base64.b64decode(cut + b"=" * (-len(cut) % 4))
    for run in re.findall(rb"[0-9a-fA-F]{8,}", data):
        for start in range(2):  # the byte before may be a digit by chance
            cut = run[start:]
            yield binascii.unhexlify(cut[: len(cut) // 2 * 2])


def readings(data: bytes):
    """`data` as numbers: (name, array) for integers and floats of several widths, from every byte that one may begin at."""
    for kind in ("<u2", ">u2", "<u4", ">u4", "<f4", "bfloat16"):
        dtype = np.dtype("<u2" if kind == "bfloat16" else kind)
        for shift in range(dtype.itemsize):
            numbers = np.frombuffer(data, dtype, count=(len(data) - shift) // dtype.itemsize, offset=shift)
            if kind == "bfloat16":
                numbers = (numbers.astype("<u4") << 16).view("<f4")
            yield kind, numbers


def id_runs_in(numbers: np.ndarray, id_runs: set[tuple], length: int) -> bool:
    """Whether `length` neighbours among `numbers` are ids of which every three in a row are one of `id_runs`."""
    wanted = np.array(sorted(run for run in id_runs if 0 not in run), dtype=np.int64)
    most = int(wanted.max()) + 1
    with np.errstate(invalid="ignore"):
        fits = (numbers > 0) & (numbers < most)
        places = np.flatnonzero(fits[:-2] & fits[1:-1] & fits[2:])
    triples = np.stack([numbers[places + step].astype(np.float64) for step in range(3)], axis=1)
    whole = (triples == np.floor(triples)).all(axis=1)
    weights = np.array([most**2, most, 1])
    hit = np.zeros(len(numbers) + 1, dtype=int)
    hit[places[whole]] = np.isin(triples[whole].astype(np.int64) @ weights, wanted @ weights)
    inside = np.convolve(hit, np.ones(length - 2, dtype=int))
    return bool((inside == length - 2).any())
