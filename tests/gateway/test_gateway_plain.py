"""An engine that takes plain LoRA adapters only, as one before a vLLM without our plugin: the gateway makes and uploads these."""

from __future__ import annotations

import httpx2
import torch
from gateway_serving import DOCUMENTS
from served import served

from distilledprag.base.llm import load_base
from distilledprag.base.prepared import prepared_record
from distilledprag.documents.store import DocumentStore
from distilledprag.engine.application import build_application as engine_application
from distilledprag.engine.backend import EmbeddedBackend
from distilledprag.engine.metrics import Metrics
from distilledprag.engine.service import Engine, Settings
from distilledprag.engine.tokenization import Tokenization
from distilledprag.gateway.application import build_application
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.http.middleware import AllowedHosts, ApiKeys
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG

KEY = "engine-key-for-tests"


class LoraOnly(EmbeddedBackend):
    takes_states = False
    uploaded: list[LoraWeights]

    def prepare(self, weights):
        self.uploaded = [*getattr(self, "uploaded", []), weights]
        return super().prepare(weights)


def test_the_gateway_uploads_plain_adapters_where_the_engine_takes_only_these(tiny_prepared_folder, tmp_path, reading):
    prag = DistilledPRAG.from_pretrained(tiny_prepared_folder, dtype=torch.float32)
    base, record = load_base(tiny_prepared_folder, dtype=torch.float32), prepared_record(tiny_prepared_folder)
    backend = LoraOnly(base, Tokenization(base).stop_ids)
    engine = Engine(base, Settings(), backend=backend, numbered=record.numbered)
    question, text = "Where does Anna Tovberg live?", DOCUMENTS["staff.txt"]
    store = DocumentStore(tmp_path / "store")
    try:
        with served(engine_application(engine, ApiKeys([KEY]), Metrics(), ApiKeys())) as url:
            app = build_application(prag, store, reading, [EngineClient(url, KEY)], ApiKeys(), AllowedHosts("127.0.0.1"))
            with served(app) as address, httpx2.Client(base_url=address, timeout=60, trust_env=False) as http:
                assert http.post("/v1/documents", json={"name": "staff.txt", "text": text}).status_code == 200
                body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "temperature": 0}
                answer = http.post("/v1/chat/completions", json=body).json()
    finally:
        store.close()
    assert answer["choices"][0]["message"]["content"] == prag.answer_peft(question, [text])
    (uploaded,) = backend.uploaded
    sent = answer["distilledprag"]["sent"]
    assert uploaded.rank == sent["adapter"]["rows"] == sent["masked_tokens"] == prag.prompts.document_length(text)
    assert sent["adapter"]["layer"] == record.plain_layer and sent["adapter"]["width"] == base.model.config.hidden_size
