"""Requests made from the gateway's own description, with a whole engine behind it: never a 5xx, and no document is lost."""

from __future__ import annotations

import httpx2
import pytest
from gateway_serving import DOCUMENTS
from openapi_fuzz import fuzz
from served import served

from distilledprag.base.llm import load_base
from distilledprag.documents.store import DocumentStore
from distilledprag.engine.application import Metrics
from distilledprag.engine.application import build_application as build_engine
from distilledprag.engine.service import Engine
from distilledprag.gateway.application import build_application
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.http.middleware import AllowedHosts, ApiKeys

KEY = "the-key-of-the-gateway"


@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_no_request_made_from_the_description_breaks_the_gateway(prag, tiny_base_folder, tmp_path, reading, examples):
    engine = build_engine(Engine(load_base(tiny_base_folder)), ApiKeys(), Metrics(), ApiKeys())
    store = DocumentStore(tmp_path / "store")
    with served(engine) as engine_url:
        client = EngineClient(engine_url, "")
        app = build_application(prag, store, reading, [client], ApiKeys([KEY]), AllowedHosts("127.0.0.1", ()))
        with served(app) as url, httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
            kept = {http.post("/v1/documents", json={"name": n, "text": t}).json()["id"] for n, t in DOCUMENTS.items()}
            assert fuzz(http.get("/openapi.json").json(), url, KEY, examples) > 4 * examples
            listed = {document["id"] for document in http.get("/v1/documents?limit=1000").json()["data"]}
            assert kept <= listed
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": "Where does Anna Tovberg live?"}]}
            assert http.post("/v1/chat/completions", json=body | {"max_tokens": 2}).status_code == 200
    store.close()
