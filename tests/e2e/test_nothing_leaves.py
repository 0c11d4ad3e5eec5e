"""Real processes and sockets: what goes from the gateway to the engine while people ask, byte by byte."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest
from processes import engine, gateway, recording_proxy
from wire_audit import leaks, made_up, prompts

from distilledprag.pipeline import DistilledPRAG


@pytest.fixture(scope="module")
def prag():
    return DistilledPRAG.from_pretrained()


def audit(prag, data, documents, questions):
    def empty_prompt(question):
        return prag.prompts.build(question, ["", "", ""]).open_ids

    return leaks(data, documents, questions, prag.base.tokenizer, prag.base.mask_token_id, empty_prompt)


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_no_run_of_document_tokens_and_no_rare_word_leaves(count, tmp_path, prag):
    documents, questions = made_up(count, seed=count)
    with (
        engine(tmp_path) as (_, engine_url),
        recording_proxy(engine_url) as recording,
        gateway(tmp_path, recording.url) as (_, url),
        httpx2.Client(base_url=url, timeout=120, trust_env=False) as http,
    ):
        for name, text in documents.items():
            assert http.post("/v1/documents", json={"name": name, "text": text}).status_code == 200
        for number, question in enumerate(questions):
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
            response = http.post("/v1/chat/completions", json=body | {"stream": number % 2 == 1})
            assert response.status_code == 200 and "error" not in response.text
    data = recording.bytes
    assert len(prompts(data)) == len(questions) and data.count(b"POST /v1/adapters") >= count / 2
    assert leaks_of_a_leak(prag, data, documents, questions) == []
    assert audit(prag, data, documents, questions) == []


def leaks_of_a_leak(prag, data, documents, questions):
    """Ways to leak that the audit would miss: none, or it proves nothing."""
    text = next(iter(documents.values()))
    piece = text.split(". ")[2]
    ids = prag.base.tokenizer(" " + piece, add_special_tokens=False).input_ids
    ways = {
        "plain": piece.encode(),
        "json": json.dumps(piece.replace("$", "\u0024")).encode(),
        "escaped": "".join(f"\\u{ord(character):04x}" for character in piece).encode(),
        "base64": base64.b64encode(piece.encode()),
        "hex": piece.encode().hex().encode(),
        "utf-16": piece.encode("utf-16-le"),
        "ids": b'"prompt": ' + json.dumps(ids).encode(),
    }
    return [way for way, leak in ways.items() if not audit(prag, data[:2000] + b" " + leak, documents, questions)]
