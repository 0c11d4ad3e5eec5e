"""Files and requests that mean harm: a clear 4xx each, never a 5xx, and another tenant's answers stay the same bit by bit."""

from __future__ import annotations

import functools
import resource
import socket
import threading

import pytest
from engine_cases import KEY, OTHER_KEY
from hostile import changed_tensors, damage, damaged, hostile_files, small_adapter, victim
from hypothesis import HealthCheck, Phase, given, settings

from distilledprag.engine.application import build_application
from distilledprag.errors import AdapterError, IncompatibleBaseError
from distilledprag.lora.peft_format import tensor_names
from distilledprag.lora.validation import AdapterSpec, check_adapter
from distilledprag.lora.weights import LoraPair, LoraWeights

UP, DOWN = tensor_names("layers.0.mlp.up_proj")[0], tensor_names("layers.0.mlp.down_proj")[1]
MUTATIONS = 2000


@pytest.fixture
def small(running):
    return small_adapter(running.engine.spec).to_bytes()


def send(running, data, key=KEY):
    with running.http(key) as http:
        return http.post("/v1/adapters", content=data)


def test_every_hostile_file_is_refused_for_its_reason_and_harms_nobody(running, small, adapter_bytes, masked_prompts):
    assert send(running, small).status_code == 201
    wrong = []
    with victim(running, adapter_bytes[0], masked_prompts[0]):
        for name, (make, status, code) in hostile_files(UP, DOWN).items():
            response = send(running, make(small))
            error = response.json().get("error", {"code": "accepted", "message": ""})
            if response.status_code != status or (code and error["code"] != code) or len(error["message"]) < 30:
                wrong.append((name, response.status_code, error))
    assert not wrong
    assert running.engine.adapters.count == 2  # the good one and the victim's


@pytest.mark.parametrize("mutations", [500, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_damaged_adapters_are_refused_with_a_reason_or_are_within_the_bounds(tiny_base, mutations):
    """The gate itself, without HTTP: nothing else than a refusal comes out of it, and nothing that is not finite passes."""
    spec = AdapterSpec.from_config(tiny_base.model.config, identity=tiny_base.identity)
    data, counts = small_adapter(spec).to_bytes(), {"accepted": 0, "refused": 0}

    @settings(max_examples=mutations, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(damage())
    def attack(choices):
        try:
            weights = check_adapter(damaged(data, *choices), spec)
        except (AdapterError, IncompatibleBaseError) as error:
            counts["refused"] += 1
            assert len(str(error)) >= 30
            return
        counts["accepted"] += 1
        assert set(weights.modules) <= set(spec.shapes) and weights.base == spec.identity
        for pair in weights.modules.values():
            assert max(pair.a.abs().max(), pair.b.abs().max()) <= spec.largest_value

    attack()
    assert min(counts.values()) > mutations // 20 and sum(counts.values()) >= mutations


@pytest.mark.parametrize("mutations", [120, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_damaged_adapters_harm_nobody(running, small, adapter_bytes, masked_prompts, mutations):
    """What is refused says why; what is accepted answers or says that it cannot."""
    counts = {"accepted": 0, "refused": 0}
    with running.http() as http, victim(running, adapter_bytes[0], masked_prompts[0]):

        @settings(max_examples=mutations, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(damage())
        def attack(choices):
            response = http.post("/v1/adapters", content=damaged(small, *choices))
            if response.status_code != 201:
                assert response.status_code in (409, 413, 422), response.text
                assert response.json()["error"]["code"]
                counts["refused"] += 1
                return
            counts["accepted"] += 1
            adapter = response.json()
            body = {"model": adapter["model"], "prompt": masked_prompts[1][-20:], "max_tokens": 2, "temperature": 0}
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 200 or answer.json()["error"]["code"] == "not_finite_answer", answer.text
            assert http.delete(f"/v1/adapters/{adapter['id']}").status_code == 200

        attack()
    assert min(counts.values()) > mutations // 20 and sum(counts.values()) >= mutations


def test_an_adapter_that_drives_its_own_values_to_infinity_ends_its_own_answer_only(
    running, adapter_bytes, masked_prompts, monkeypatch
):
    """As if the gate's bounds had failed: the row's own answer is an error, the batch goes on."""
    monkeypatch.setattr("distilledprag.engine.service.check_adapter", lambda data, spec: LoraWeights.from_bytes(data))
    spec = running.engine.spec
    wild = small_adapter(spec)
    modules = {key: LoraPair(pair.a * 1e30, pair.b * 1e30) for key, pair in wild.modules.items()}
    with victim(running, adapter_bytes[0], masked_prompts[0]):
        name = running.upload(LoraWeights(modules, 2.0, spec.identity, "wild").to_bytes())["model"]
        for _ in range(10):
            response = running.complete(masked_prompts[1], name)
            assert response.status_code == 422 and response.json()["error"]["code"] == "not_finite_answer"


def test_deleting_an_adapter_during_its_answer_ends_nothing(running, adapter_bytes, masked_prompts):
    uploaded = running.upload(adapter_bytes[1])
    fields = {"max_tokens": 200, "temperature": 1.5, "seed": 1, "stream": True}
    body = {"model": uploaded["model"], "prompt": masked_prompts[1], **fields}
    with running.http() as http, victim(running, adapter_bytes[0], masked_prompts[0]):
        expected = http.post("/v1/completions", json=body).text
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            assert running.http().delete(f"/v1/adapters/{uploaded['id']}").status_code == 200
            rest = list(lines)
        assert rest[-2:][0] == "data: [DONE]" or rest[-1] == "data: [DONE]"
        assert expected.count("data: ") == 1 + sum(line.startswith("data: ") for line in rest)


def test_many_attacks_do_not_grow_the_memory(running, small):
    """Refused bodies, abandoned ones and expired adapters leave nothing behind."""
    bad = changed_tensors(small, lambda all: all[UP].fill_(float("nan")))
    big = bytes(running.engine.max_adapter_bytes // 2)

    def round_of_attacks():
        with running.http() as http:
            for _ in range(20):
                assert http.post("/v1/adapters", content=bad).status_code == 422
                assert http.post("/v1/adapters", content=big).status_code == 422
                id = http.post("/v1/adapters", content=small).json()["id"]
                assert http.delete(f"/v1/adapters/{id}").status_code == 200

    round_of_attacks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        round_of_attacks()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert running.engine.adapters.count == 0


RAW = {
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "an endless line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "a header of 200 kB": b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    "a negative length": b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    "length and chunks": b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a wrong chunk": b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a path above the root": b"GET /v1/models/../../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "an encoded path": b"GET /v1/adapters/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    + KEY.encode() + b"\r\n\r\n",
    "bytes as a key": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \xff\xfe\r\n\r\n",
    "a websocket": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_bytes", RAW.values(), ids=RAW)
def test_broken_http_never_reaches_5xx_and_the_engine_lives(running, request_bytes):
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.settimeout(20)
        received = b""
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except OSError:  # the engine hung up
            pass
    for line in received.split(b"\r\n"):
        assert not line.startswith(b"HTTP/1.1 5"), line
    assert running.complete("Where", max_tokens=1).status_code == 200


def test_a_slow_body_is_given_up(start_engine):
    running = start_engine(build=functools.partial(build_application, body_seconds=0.5))
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/adapters HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"1")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_tenant_that_floods_does_not_keep_another_from_its_turn(running, masked_prompts):
    flood = [
        threading.Thread(target=running.complete, args=("Where",), kwargs={"max_tokens": 100, "temperature": 1.5, "seed": n})
        for n in range(40)
    ]
    for thread in flood:
        thread.start()
    response = running.complete(masked_prompts[0], key=OTHER_KEY, max_tokens=4)
    waiting = running.engine.queue.waiting + running.engine.queue.running
    for thread in flood:
        thread.join()
    assert response.status_code == 200 and waiting > 0  # it was answered before the flood had ended
