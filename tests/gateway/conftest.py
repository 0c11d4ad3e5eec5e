"""A gateway and a tiny engine on real sockets, and a client for the gateway."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
import pytest
import torch
from gateway_serving import DOCUMENTS, TinyEngine
from served import served

from distilledprag.base.llm import load_base
from distilledprag.documents.store import DocumentStore
from distilledprag.gateway.application import Options, build_application
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.http.middleware import AllowedHosts, ApiKeys
from distilledprag.pipeline import DistilledPRAG


@pytest.fixture(scope="session")
def prag(tiny_base):
    return DistilledPRAG(tiny_base, layer=1)


@pytest.fixture(scope="session")
def engine_base(tiny_base_folder):
    """A base of its own: gateway and engine run theirs in different threads."""
    return load_base(tiny_base_folder, dtype=torch.float32)


@dataclass
class Stage:
    """Everything that runs for a test."""

    client: httpx2.Client
    engine: TinyEngine  # the first one
    store: DocumentStore
    prag: DistilledPRAG
    engine_url: str
    engines: list[TinyEngine]
    stops: list[Callable[[], None]]  # one for each engine

    def add(self, documents=None) -> list[str]:
        documents = DOCUMENTS if documents is None else documents
        return [self.client.post("/v1/documents", json={"name": n, "text": t}).json()["id"] for n, t in documents.items()]

    def ask(self, question, *, history=(), **fields):
        messages = [*history, {"role": "user", "content": question}]
        return self.client.post("/v1/chat/completions", json={"model": "distilledprag", "messages": messages, **fields})

    def events(self, question, **fields):
        """The server-sent events of an answer, parsed; the last one is "[DONE]" when it ended well."""
        messages = [{"role": "user", "content": question}]
        body = {"model": "distilledprag", "messages": messages, "stream": True, **fields}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.fixture
def stage(prag, engine_base, tmp_path, reading):
    """A function that starts a gateway with the given options; the test's end stops it."""
    with contextlib.ExitStack() as stack:

        def start(options: Options | None = None, *, keys=(), engine_key=None, allowed_hosts=(), pool=None, replicas=1) -> Stage:
            engines = [TinyEngine(engine_base, prag.prompts.end_of_turn_id) for _ in range(replicas)]
            running = [stack.enter_context(contextlib.ExitStack()) for _ in engines]
            urls = [each.enter_context(served(engine.application())) for each, engine in zip(running, engines, strict=True)]
            store = DocumentStore(tmp_path / "store")
            stack.callback(store.close)
            clients = [EngineClient(url, engines[0].key if engine_key is None else engine_key) for url in urls]
            hosts = AllowedHosts("127.0.0.1", allowed_hosts)
            app = build_application(prag, store, pool or reading, clients, ApiKeys(keys), hosts, options)
            address = stack.enter_context(served(app))
            http = stack.enter_context(httpx2.Client(base_url=address, timeout=60, trust_env=False))
            return Stage(http, engines[0], store, prag, urls[0], engines, [each.close for each in running])

        yield start
