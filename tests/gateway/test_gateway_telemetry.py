"""What operators see through OpenTelemetry: which steps took how long, and nothing of what was asked, found or answered."""

from __future__ import annotations

import contextlib
import gzip
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from gateway_serving import DOCUMENTS
from served import served

from distilledprag.documents.store import DocumentStore
from distilledprag.engine.application import build_application as build_engine
from distilledprag.engine.metrics import Metrics
from distilledprag.engine.service import Engine
from distilledprag.gateway.application import build_application
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.http import telemetry
from distilledprag.http.middleware import AllowedHosts, ApiKeys

KEY = "a-key-of-the-engine-for-this-test"
QUESTION = "Where does Anna Tovberg live, and how much does she earn?"
QUOTE = DOCUMENTS["ships.txt"] + " Is that right?"  # refused, as long as it is


@pytest.fixture
def exported(monkeypatch):
    """What was exported so far: (path, bytes, uncompressed)."""
    told = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    yield told
    telemetry.stop()
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(prag, engine_base, tmp_path, reading):
    """A client of a gateway before an engine, both in this process."""
    with contextlib.ExitStack() as stack:
        engine = served(build_engine(Engine(engine_base), ApiKeys([KEY]), Metrics(), ApiKeys()))
        door = EngineClient(stack.enter_context(engine), KEY)
        store = DocumentStore(tmp_path / "store")
        stack.callback(store.close)
        gateway = build_application(prag, store, reading, [door], ApiKeys(), AllowedHosts("127.0.0.1"))
        address = stack.enter_context(served(gateway))
        yield stack.enter_context(httpx2.Client(base_url=address, timeout=60, trust_env=False))


def test_each_step_is_told_and_no_word_of_documents_questions_or_answers(exported, client):
    said = []
    telemetry.start("dprag-test", said.append)
    for name, text in DOCUMENTS.items():
        assert client.post("/v1/documents", json={"name": name, "text": text}).status_code == 200
    answers = []
    for question, stream in ((QUESTION, False), (QUESTION, True), (QUOTE, False)):
        body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "stream": stream}
        answers.append(client.post("/v1/chat/completions", json=body))
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    client.get("/v1/search", params={"q": "Velkor Millport"})
    client.get("/Tovberg/Copperleaf")
    telemetry.stop()
    assert said == [] and {path for path, _ in exported} == {"/v1/traces", "/v1/metrics"}
    everything = b"".join(data for _, data in exported)
    for told in ("retrieve", "encode", "upload", "answer", "wait", "decode", "POST /v1/chat/completions", "dprag.answer_tokens"):
        assert told.encode() in everything, told
    assert b"http.server.request.duration" in everything and b"dprag.tokens" in everything and b"dprag-test" in everything
    written = answers[0].json()["choices"][0]["message"]["content"]
    words = re.findall(r"\w{4,}", " ".join([*DOCUMENTS, *DOCUMENTS.values(), QUESTION, QUOTE, written]))
    assert len(set(words)) > 30
    assert [word for word in words if word.lower().encode() in everything.lower()] == []


def test_without_the_variables_nothing_is_told(exported, client, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    telemetry.start("dprag-test", print)
    assert client.get("/health").status_code == 200
    telemetry.stop()
    assert exported == [] and not telemetry.wanted({})
