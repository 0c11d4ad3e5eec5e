"""The engine over real sockets: the official OpenAI client unchanged, tenants, errors in OpenAI's shape, metrics, logs."""

from __future__ import annotations

import json
import logging
import threading
import time

import httpx2
import openai
import pytest
import torch
from engine_cases import DOCUMENTS, KEY, METRICS_KEY, OTHER_KEY, QUESTIONS
from waiting import until

from distilledprag.base.llm import MAX_ANSWER_TOKENS
from distilledprag.engine.adapter_store import Quotas
from distilledprag.engine.backend import EmbeddedBackend, Limits
from distilledprag.engine.service import Settings
from distilledprag.lora import LoraPair, LoraWeights, module_shapes

CHAT = {"model": "base", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 4, "temperature": 0}
LONG = {"max_tokens": 900, "temperature": 1.0, "top_p": 1.0}  # drawn at random the base seldom ends its answer early


def test_the_official_client_lists_the_model_and_the_callers_own_adapters_only(running, adapter_bytes):
    mine = running.upload(adapter_bytes[0])
    assert [model.id for model in running.openai().models.list()] == ["base", mine["model"]]
    assert [model.id for model in running.openai(OTHER_KEY).models.list()] == ["base"]
    assert running.openai().models.retrieve(mine["model"]).id == mine["model"]
    with pytest.raises(openai.NotFoundError):
        running.openai(OTHER_KEY).models.retrieve(mine["model"])


def test_an_adapter_changes_the_answer(running, prag, adapter_bytes, masked_prompts):
    client = running.openai()
    prompt = masked_prompts[0]
    without = client.completions.create(model="base", prompt=prompt, max_tokens=16, temperature=0)
    assert without.choices[0].text
    # A random model's next token hardly depends on states at masks; a loud LoRA in the last layer decides it.
    generator = torch.Generator().manual_seed(0)
    shapes = module_shapes(prag.base.model.config)
    pairs = {
        key: LoraPair(torch.randn(2, d_in, generator=generator), torch.randn(d_out, 2, generator=generator))
        for key, (d_in, d_out) in shapes.items()
        if key.startswith("layers.2.")
    }
    loud = LoraWeights(pairs, 4.0, prag.base.identity, "test")
    for data in (adapter_bytes[0], loud.to_bytes()):
        name = running.upload(data)["model"]
        made = client.completions.create(model=name, prompt=prompt, max_tokens=16, temperature=0)
        assert made.choices[0].text and made.model == name
        assert made.usage.prompt_tokens == len(prompt) and made.usage.total_tokens > len(prompt)
    assert made.choices[0].text != without.choices[0].text


def test_the_engine_answers_as_the_library_does(running, prag, adapter_bytes, masked_prompts):
    for data, prompt, question, document in zip(adapter_bytes, masked_prompts, QUESTIONS, DOCUMENTS, strict=True):
        name = running.upload(data)["model"]
        text = running.complete(prompt, name, max_tokens=MAX_ANSWER_TOKENS).json()["choices"][0]["text"]
        assert text.strip() == prag.answer(question, documents=[document]).text


def test_a_streamed_answer_is_the_whole_one_in_pieces(running, adapter_bytes, masked_prompts):
    name, client = running.upload(adapter_bytes[0])["model"], running.openai()
    fields = {"model": name, "prompt": masked_prompts[0], "max_tokens": 16, "temperature": 0}
    whole = client.completions.create(**fields)
    chunks = list(client.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_chat_streams_and_answers_alike(running):
    messages = [{"role": "user", "content": "Where is Velkor Freight based?"}]
    fields = {"model": "base", "messages": messages, "max_tokens": 8, "temperature": 0}
    whole = running.openai().chat.completions.create(**fields)
    chunks = list(running.openai().chat.completions.create(**fields, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == whole.choices[0].message.role == "assistant"


def test_the_same_seed_draws_the_same_answer_and_another_seed_another(running):
    def drawn(seed):
        return running.complete("Where", max_tokens=24, temperature=1.5, seed=seed).json()["choices"][0]["text"]

    assert drawn(5) == drawn(5) and len({drawn(seed) for seed in range(4)}) > 1


def test_a_stop_text_ends_the_answer_and_is_not_given_out(running, adapter_bytes, masked_prompts):
    name = running.upload(adapter_bytes[0])["model"]
    whole = running.complete(masked_prompts[0], name).json()["choices"][0]["text"]
    stop = whole[5:8]
    choice = running.complete(masked_prompts[0], name, stop=[stop]).json()["choices"][0]
    assert choice["text"] == whole.partition(stop)[0] and choice["finish_reason"] == "stop"


def test_what_has_no_effect_is_accepted(running):
    harmless = {"user": "u", "metadata": {"a": "b"}, "n": 1, "tools": [], "tool_choice": "auto", "seed": 5}
    plain, with_them = (running.http().post("/v1/chat/completions", json=CHAT | more) for more in ({}, harmless))
    assert with_them.status_code == 200 and with_them.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize("path, body, status, code, param", [
    ("/v1/completions", {"model": "other", "prompt": "x"}, 404, "model_not_found", "model"),
    ("/v1/completions", {"model": "base:adapter-none", "prompt": "x"}, 404, "adapter_not_found", None),
    ("/v1/completions", {"model": "../base", "prompt": "x"}, 404, "model_not_found", "model"),
    ("/v1/completions", {"model": "base", "prompt": ""}, 400, "invalid_request", "prompt"),
    ("/v1/completions", {"model": "base", "prompt": [-1]}, 400, "invalid_request", "prompt"),
    ("/v1/completions", {"model": "base", "prompt": [10**9]}, 400, "invalid_request", "prompt"),
    ("/v1/completions", {"model": "base", "prompt": ["a", "b"]}, 400, "invalid_request", "prompt"),
    ("/v1/completions", {"model": "base", "prompt": "x", "n": 9}, 400, "invalid_request", "n"),
    ("/v1/completions", {"model": "base", "prompt": "x", "best_of": 2}, 400, "unsupported_parameter", "best_of"),
    ("/v1/completions", {"model": "base", "prompt": "x", "max_tokens": 1025}, 400, "max_tokens_too_large", "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice"),
    ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
    ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema"}}, 400, "invalid_request", "response_format"),
    ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}},
     400, "unsupported_schema", "response_format"),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": None}]}, 400, "invalid_request", "messages.0"),
    ("/v1/chat/completions", {**CHAT, "reasoning_effort": "low"}, 400, "invalid_request", "reasoning_effort"),
    ("/v1/completions", {"model": "base", "prompt": "x", "temperature": 9}, 400, "invalid_request", "temperature"),
    ("/v1/completions", {"model": "base", "prompt": "x", "unheard_of": 1}, 400, "invalid_request", "unheard_of"),
    ("/v1/completions", {"model": "base", "prompt": [5] * 9000}, 400, "context_length_exceeded", None),
    ("/v1/chat/completions", {"model": "base", "messages": []}, 400, "invalid_request", "messages"),
    ("/v1/chat/completions", {"model": "base", "messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_request",
     "messages"),
    ("/v1/chat/completions", {"model": "base", "messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_request",
     "messages.0.role"),
    ("/v1/unheard-of", {}, 404, "not_found", None),
])  # fmt: skip
def test_a_wrong_request_is_an_error_in_openais_shape(running, path, body, status, code, param):
    with running.http() as http:
        response = http.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"} and response.headers["x-request-id"]


def test_bodies_that_are_no_json_or_too_long_are_refused(running):
    with running.http() as http:
        for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"):
            assert http.post("/v1/completions", content=body).status_code == 400
        assert http.post("/v1/completions", content=b" " * 2_000_000).status_code == 413
        long = running.engine.max_adapter_bytes + 1
        chunks = (bytes(65536) for _ in range(long // 65536 + 1))  # nothing announces its length
        assert http.post("/v1/adapters", content=chunks).status_code == 413


@pytest.mark.parametrize("key", ["", "wrong-key-wrong-key-wrong", KEY + "x", "\x7f"])
def test_nothing_answers_without_a_key_but_health(running, key):
    with httpx2.Client(base_url=running.url, trust_env=False, headers={"authorization": f"Bearer {key}"} if key else {}) as http:
        assert http.get("/health").status_code == 200
        for method, path in [("GET", "/v1/models"), ("GET", "/v1/adapters"), ("POST", "/v1/completions"),
                             ("POST", "/v1/adapters"), ("GET", "/metrics"), ("DELETE", "/v1/adapters/x")]:  # fmt: skip
            response = http.request(method, path)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key", path
        for path in ("/docs", "/redoc", "/invocations", "/tokenize", "/v2/anything"):
            assert http.get(path).status_code == 404


def test_an_adapter_belongs_to_the_key_that_sent_it(running, adapter_bytes, masked_prompts):
    mine = running.upload(adapter_bytes[0])
    with running.http(OTHER_KEY) as other:
        assert other.get("/v1/adapters").json()["data"] == []
        for response in (other.get(f"/v1/adapters/{mine['id']}"), other.delete(f"/v1/adapters/{mine['id']}")):
            assert response.status_code == 404
        unknown = other.get("/v1/adapters/adapter-" + "0" * 32).json()
        assert other.get(f"/v1/adapters/{mine['id']}").json() == unknown  # says nothing about whether it exists
    assert running.complete(masked_prompts[0], mine["model"], key=OTHER_KEY).status_code == 404
    assert running.complete(masked_prompts[0], mine["model"]).status_code == 200
    with running.http() as http:
        assert http.get(f"/v1/adapters/{mine['id']}").json()["id"] == mine["id"]
        assert http.delete(f"/v1/adapters/{mine['id']}").json()["deleted"] is True
        assert http.delete(f"/v1/adapters/{mine['id']}").status_code == 404
    assert running.complete(masked_prompts[0], mine["model"]).status_code == 404


def test_the_same_bytes_sent_twice_are_two_adapters(running, adapter_bytes):
    first, second = running.upload(adapter_bytes[0]), running.upload(adapter_bytes[0])
    assert first["id"] != second["id"] and len(first["id"]) > 30
    assert first["expires_at"] == pytest.approx(time.time() + 3600, abs=30)


def test_quotas_and_lifetimes(start_engine, adapter_bytes):
    running = start_engine(Settings(quotas=Quotas(ttl=3.0, per_tenant=2)))
    first, second = running.upload(adapter_bytes[0]), running.upload(adapter_bytes[1])
    with running.http() as http:
        refused = http.post("/v1/adapters", content=adapter_bytes[2])
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "adapter_quota"
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        running.upload(adapter_bytes[2], OTHER_KEY)  # another key's quota is its own
        until(lambda: http.get(f"/v1/adapters/{first['id']}").status_code == 404)
        until(lambda: http.get(f"/v1/adapters/{second['id']}").status_code == 404)
        running.upload(adapter_bytes[2])
    until(lambda: running.engine.adapters.count <= 1)


def test_a_full_queue_answers_429_and_a_slow_answer_504(start_engine):
    settings = Settings(limits=Limits(max_num_seqs=1), max_queue=1, max_queue_per_tenant=1, request_timeout=1.0)
    running = start_engine(settings)
    responses = []
    threads = [threading.Thread(target=lambda: responses.append(running.complete("Where", **LONG, seed=3))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(response.status_code for response in responses)
    assert 429 in statuses and set(statuses) <= {200, 429, 504}
    assert all(response.headers["retry-after"] == "1" for response in responses if response.status_code == 429)
    assert running.complete("Where", request_seconds=1).status_code == 400
    running.engine.settings = Settings(request_timeout=0.0)
    late = running.complete("Where")
    assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"


def test_a_client_that_leaves_frees_its_row(start_engine, engine_base):
    running = start_engine(backend=EmbeddedBackend(engine_base, frozenset()))  # no answer ends early
    with running.http() as http:
        body = {"model": "base", "prompt": "Where", "stream": True, **LONG, "seed": 1}
        with http.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
            assert running.engine.queue.running == 1
        until(lambda: running.engine.queue.running == 0)
        with pytest.raises(httpx2.TimeoutException):
            http.post("/v1/completions", json={**body, "stream": False}, timeout=0.2)
        until(lambda: running.engine.queue.running == 0)


def test_requests_with_different_adapters_are_answered_together(running, adapter_bytes, masked_prompts):
    """More at once than one key may have rows to itself, and every answer its own document's."""
    names = [running.upload(data)["model"] for data in adapter_bytes]
    wanted = [running.complete(prompt, name).json()["choices"] for prompt, name in zip(masked_prompts, names, strict=True)]
    alone = running.complete(masked_prompts[0]).json()["choices"]
    got: dict[int, object] = {}

    def ask(number):
        place = number % 4
        response = running.complete(masked_prompts[place % 3], names[place] if place < 3 else "base")
        got[number] = (place, response.json()["choices"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 24
    for place, choices in got.values():
        assert choices == (wanted[place] if place < 3 else alone)


def test_metrics_have_a_key_of_their_own_and_hold_numbers_only(running, adapter_bytes, masked_prompts):
    name = running.upload(adapter_bytes[0])["model"]
    running.complete(masked_prompts[0], name)
    with running.http(METRICS_KEY) as http:
        text = http.get("/metrics").text
        assert http.get("/v1/models").status_code == 401  # it opens nothing else
    with running.http() as http:
        assert http.get("/metrics").status_code == 401
    assert 'dprag_requests_total{method="POST",route="/v1/completions",status="200"} 1.0' in text
    assert "dprag_adapters 1.0" in text and 'dprag_tokens_total{kind="written"}' in text
    assert name not in text and name.split(":")[1] not in text and KEY not in text


def test_the_log_has_a_line_for_every_request_and_no_text_key_or_adapter(running, adapter_bytes, caplog):
    secret = "Zorvathian Quellmarsh"
    with caplog.at_level(logging.DEBUG, logger="distilledprag"):
        uploaded = running.upload(adapter_bytes[0])
        running.complete(f"Where does {secret} live?", uploaded["model"])
        running.complete(secret, "base", unheard_of=secret)
        running.complete(secret, f"base:{secret}")
        with running.http() as http:
            http.get(f"/v1/models/{secret}")
            http.get(f"/{secret}")
    lines = [record.getMessage() for record in caplog.records if record.name == "distilledprag.engine.requests"]
    assert len(lines) == 6 and {json.loads(line)["route"] for line in lines} >= {"/v1/completions", "/v1/adapters", "unknown"}
    everything = "\n".join(record.getMessage() for record in caplog.records)
    for hidden in ("Zorvathian", "Quellmarsh", KEY, uploaded["id"], "live"):
        assert hidden not in everything


def test_a_web_page_of_another_origin_gets_nothing(running):
    with running.http() as http:
        for path in ("/v1/models", "/health"):
            assert http.get(path, headers={"origin": "https://elsewhere.example"}).status_code == 403
