"""Leaks of every kind, planted into a real recording: an audit that misses one of them proves nothing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from wire_audit import Audit, Documents, Request, requests_in
from wire_recording import Exchange

ENCODINGS = {
    "plain": lambda text: text,
    "upper case": str.upper,
    "JSON escapes": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 after a byte": lambda text: base64.b64encode(b"-" + text.encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "per cent": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
}
AS_NUMBERS = ("<u2", ">u2", "<u4", ">u4", "<f4")


def planted(documents: Documents, exchange: Exchange) -> Iterator[tuple[str, Exchange]]:
    """(what, the exchange with one request that holds it). The leaks are of a document that was used, and of one that was not."""
    requests = [request for data in exchange.sent for request in requests_in(data)]
    ask = next(request for request in requests if request.path == "/v1/completions")
    adapter = next(request for request in requests if request.method == "POST" and request.path == "/v1/adapters")
    used = documents.texts[exchange.documents[0]]
    other = next(text for name, text in documents.texts.items() if name not in exchange.documents)

    def with_request(request: Request) -> Exchange:
        return replace(exchange, sent=[request.to_bytes()])

    def in_prompt(ids) -> Exchange:
        fields = json.loads(ask.body)
        place = fields["prompt"].index(documents.mask_id)
        fields["prompt"][place : place + len(ids)] = ids
        return with_request(replace(ask, body=json.dumps(fields).encode()))

    def ids_of(text: str) -> list[int]:
        return documents.tokenizer(" " + text, add_special_tokens=False).input_ids

    pieces = {
        "three words of a used document": re.findall(r"lives in \w+", used)[0],
        "a name that another question asks about": other.split()[0],
        "a number of six digits": re.findall(r"\$(\d+),", other)[0] + " " + re.findall(r",(\d+)", other)[0],
        "a year": re.findall(r"since (\d+)", used)[0],
        "a case number": re.findall(r"case (\d+)", other)[0],
    }
    for what, piece in pieces.items():
        yield f"{what}, as ids in the prompt", in_prompt(ids_of(piece))
        for encoding, encode in ENCODINGS.items():
            if encoding == "upper case" and not piece.islower() and piece.replace(" ", "").isdigit():
                continue
            body = ask.body[:-1] + b',"user":"' + encode(piece).encode() + b'"}'
            yield f"{what}, {encoding} in the JSON", with_request(replace(ask, body=body))
        yield f"{what}, in a header", with_request(replace(ask, headers={**ask.headers, "x-note": piece}))
        yield f"{what}, in a path", with_request(replace(ask, path=f"/v1/completions?q={piece.replace(' ', '+')}"))
    ids = ids_of(used)[8:60]
    repeated = ask.body[:-1] + b',"prompt":' + json.dumps(ids).encode() + b"}"
    yield "ids under a repeated key", with_request(replace(ask, body=repeated))
    yield "ids in another list", with_request(replace(ask, body=ask.body[:-1] + f',"stop":[{ids}]}}'.encode()))
    digits = "1".join(f"{index:04}" for index in ids[:4]).encode()
    yield "ids as digits", with_request(replace(ask, body=ask.body.replace(b'"max_tokens":8', b'"max_tokens":' + digits)))
    yield "bytes outside requests", replace(exchange, sent=[exchange.sent[0] + b"lives in"])
    sentence = ". ".join(used.split(". ")[:2])
    case = pieces["a case number"]
    hidden = {name: encode(sentence).encode() for name, encode in ENCODINGS.items()}
    hidden |= {f"a case number, {name}": b"\x00" + encode(f" {case} ").encode() + b"\x00" for name, encode in ENCODINGS.items()}
    hidden |= {"UTF-16": sentence.encode("utf-16-le"), "UTF-32": sentence.encode("utf-32-le")}
    hidden |= {f"ids as {kind}": np.array(ids, kind).tobytes() for kind in AS_NUMBERS}
    hidden["ids as <u2, one byte off"] = b"\x01" + np.array(ids, "<u2").tobytes() + b"\x01"
    end = 8 + int.from_bytes(adapter.body[:8], "little")
    place = end + (len(adapter.body) - end) // 2 // 8 * 8
    for name, data in hidden.items():
        body = adapter.body[:place] + data + adapter.body[place + len(data) :]
        yield f"{name}, in an adapter", with_request(replace(adapter, body=body))
    header = json.loads(adapter.body[8:end])
    header["__metadata__"]["note"] = pieces["a year"]
    told = json.dumps(header).encode()
    yield (
        "a year, in an adapter's header",
        with_request(replace(adapter, body=len(told).to_bytes(8, "little") + told + adapter.body[end:])),
    )


def missed(documents: Documents, exchange: Exchange) -> tuple[int, list[str]]:
    """How many leaks were planted, and which of them the audit does not find."""
    leaks = list(planted(documents, exchange))
    return len(leaks), [what for what, leaking in leaks if not Audit(documents, leaking).findings()]
