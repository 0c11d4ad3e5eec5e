"""A whole engine and a gateway before it on real sockets, with documents: what clients talk to."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import httpx2
import pytest
import torch
from clients_stage import DOCUMENTS, KEY, MOST
from served import served

from distilledprag.base.llm import load_base
from distilledprag.documents.store import DocumentStore
from distilledprag.engine.application import build_application as build_engine
from distilledprag.engine.metrics import Metrics
from distilledprag.engine.service import Engine, Settings
from distilledprag.gateway.application import build_application
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.http.middleware import AllowedHosts, ApiKeys
from distilledprag.pipeline import DistilledPRAG


@dataclass
class Server:
    """`url` ends in /v1; model: the name to ask for."""

    url: str
    model: str
    key: str = KEY


@dataclass
class Stage:
    engine: Server
    gateway: Server
    prag: DistilledPRAG


@pytest.fixture(scope="session")
def stage(tiny_base, tiny_base_folder, tmp_path_factory, reading):
    prag = DistilledPRAG(tiny_base, layer=1)
    engine = Engine(load_base(tiny_base_folder, dtype=torch.float32), Settings(max_answer_tokens=MOST))
    with contextlib.ExitStack() as stack:
        engine_url = stack.enter_context(served(build_engine(engine, ApiKeys([KEY]), Metrics(), ApiKeys())))
        store = DocumentStore(tmp_path_factory.mktemp("clients") / "store")
        stack.callback(store.close)
        client, hosts = EngineClient(engine_url, KEY), AllowedHosts("127.0.0.1", ())
        app = build_application(prag, store, reading, [client], ApiKeys([KEY]), hosts)
        gateway_url = stack.enter_context(served(app))
        for name, text in DOCUMENTS.items():
            headers = {"authorization": f"Bearer {KEY}"}
            sent = httpx2.post(f"{gateway_url}/v1/documents", json={"name": name, "text": text}, headers=headers, trust_env=False)
            assert sent.status_code == 200
        yield Stage(Server(f"{engine_url}/v1", "base"), Server(f"{gateway_url}/v1", "distilledprag"), prag)


@pytest.fixture(params=["engine", "gateway"])
def server(request, stage) -> Server:
    return getattr(stage, request.param)
