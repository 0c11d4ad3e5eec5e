"""Files and requests that mean harm: a clear 4xx each, never a 5xx, and another tenant's answers stay the same bit by bit."""

from __future__ import annotations

import functools
import io
import json
import pickle
import resource
import socket
import threading
import zipfile

import pytest
import torch
from engine_cases import KEY, OTHER_KEY
from hostile import changed_header, changed_tensors, header_of, small_adapter, victim, with_header_text
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from distilledprag.engine.application import build_application
from distilledprag.errors import AdapterError, IncompatibleBaseError
from distilledprag.lora.validation import AdapterSpec, check_adapter
from distilledprag.lora.weights import LoraPair, LoraWeights

A = "base_model.model.model.layers.{}.mlp.{}.lora_A.weight"
B = "base_model.model.model.layers.{}.mlp.{}.lora_B.weight"
UP, DOWN = A.format(0, "up_proj"), B.format(0, "down_proj")
MUTATIONS = 2000


def pickled(_):
    buffer = io.BytesIO()
    torch.save({"lora": torch.ones(2)}, buffer)
    return buffer.getvalue()


def archive(_):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../adapter_config.json", "{}")
    return buffer.getvalue()


def million_tensors(data):
    tensors = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(1_000_000))
    return with_header_text(data, b"{" + tensors + b"}")


def value(name, place, number):
    def change(tensors):
        tensors[name].view(-1)[place] = number

    return lambda data: changed_tensors(data, change)


def tensors(change):
    return lambda data: changed_tensors(data, change)


def header(change):
    return lambda data: changed_header(data, change)


def rename(record, old, new):
    record[new] = record.pop(old)


HOSTILE = {
    "nan": (value(UP, 0, float("nan")), 422, "not_finite"),
    "infinite": (value(DOWN, -1, float("inf")), 422, "not_finite"),
    "minus infinite": (value(DOWN, 3, float("-inf")), 422, "not_finite"),
    "large value": (value(UP, 0, 2e4), 422, "norm"),
    "large change": (tensors(lambda all: [tensor.mul_(600) for tensor in all.values()]), 422, "norm"),
    "large alpha": (header(lambda h: rescale(h, 1e4)), 422, "norm"),
    "huge alpha": (header(lambda h: rescale(h, 1e300)), 422, "record"),
    "smaller hidden size": (tensors(lambda all: all.update({UP: all[UP][:, :-1].clone()})), 422, "shape"),
    "larger hidden size": (tensors(lambda all: all.update({UP: torch.ones(2, 4096)})), 422, "shape"),
    "shape of 2^60": (header(lambda h: h[UP].update(shape=[0, 2**60])), 422, "shape"),
    "negative shape": (header(lambda h: h[UP].update(shape=[-2, 4])), 422, "malformed"),
    "no lora_B": (tensors(lambda all: all.pop(DOWN)), 422, "keys"),
    "an attention module": (tensors(lambda all: all.update({UP.replace("mlp.up", "self_attn.q"): all[UP].clone()})), 422, "keys"),
    "layer 99": (tensors(lambda all: all.update({UP.replace("layers.0", "layers.99"): all[UP].clone()})), 422, "keys"),
    "embeddings": (tensors(lambda all: all.update({"base_model.model.model.embed_tokens.weight": torch.ones(2)})), 422, "keys"),
    "modules_to_save": (tensors(lambda all: all.update({"base_model.model.lm_head.weight": torch.ones(2)})), 422, "keys"),
    "dora": (tensors(lambda all: all.update({UP.replace("lora_A", "lora_magnitude_vector"): torch.ones(2)})), 422, "keys"),
    "lora bias": (tensors(lambda all: all.update({DOWN.replace("weight", "bias"): torch.ones(2)})), 422, "keys"),
    "a name that is a path": (tensors(lambda all: all.update({"../../etc/passwd": torch.ones(1)})), 422, "keys"),
    "a name of another script": (header(lambda h: rename(h, UP, UP.replace("a", "\N{CYRILLIC SMALL LETTER A}"))), 422, "keys"),
    "whole numbers": (tensors(lambda all: all.update({UP: all[UP].to(torch.int32)})), 422, "dtype"),
    "float64": (tensors(lambda all: all.update({UP: all[UP].double()})), 422, "dtype"),
    "float8": (tensors(lambda all: all.update({UP: all[UP].to(torch.float8_e4m3fn)})), 422, "dtype"),
    "overlapping tensors": (header(lambda h: h[UP].update(data_offsets=h[DOWN]["data_offsets"])), 422, "malformed"),
    "offsets beyond the end": (header(lambda h: h[UP].update(data_offsets=[0, 2**50])), 422, "truncated"),
    "trailing bytes": (lambda data: data + b"more", 422, "malformed"),
    "the last byte gone": (lambda data: data[:-1], 422, "truncated"),
    "nothing": (lambda data: b"", 422, "truncated"),
    "a header of 2^62 bytes": (lambda data: (2**62).to_bytes(8, "little") + b"{}", 413, "header_too_long"),
    "a million tensors": (million_tensors, 413, None),
    "a deep header": (lambda data: with_header_text(data, b"[" * 100_000), 422, "malformed"),
    "the same key twice": (lambda data: with_header_text(data, twice(data)), 422, "malformed"),
    "no record": (header(lambda h: h.pop("__metadata__")), 422, "record"),
    "more metadata": (header(lambda h: h["__metadata__"].update(path="../x")), 422, "record"),
    "another base": (header(lambda h: rebase(h)), 409, "wrong_base"),
    "a pickle": (pickled, 413, "header_too_long"),
    "pickle opcodes": (lambda data: pickle.dumps({"a": [1]}), 413, "header_too_long"),
    "an archive": (archive, 413, "header_too_long"),
    "a file of text": (lambda data: b"{}" * 500, 413, None),
}  # fmt: skip


def record_of(header):
    (name,) = header["__metadata__"]
    return name, json.loads(header["__metadata__"][name])


def rescale(header, alpha):
    name, record = record_of(header)
    header["__metadata__"][name] = json.dumps(record | {"alpha": alpha})


def rebase(header):
    name, record = record_of(header)
    header["__metadata__"][name] = json.dumps(record | {"base": record["base"] | {"config_hash": "0" * 64}})


def twice(data):
    text = json.dumps(header_of(data))
    return (text[:-1] + f', "{UP}": ' + json.dumps(header_of(data)[UP]) + "}").encode()


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
        for name, (make, status, code) in HOSTILE.items():
            response = send(running, make(small))
            error = response.json().get("error", {"code": "accepted", "message": ""})
            if response.status_code != status or (code and error["code"] != code) or len(error["message"]) < 30:
                wrong.append((name, response.status_code, error))
    assert not wrong
    assert running.engine.adapters.count == 2  # the good one and the victim's


@st.composite
def damage(draw):
    """One mutation of a valid file: of its bytes, of its length, of an entry of its header, or of its values."""
    kind = draw(st.sampled_from(["bytes", "header bytes", "cut", "longer", "entry", "values", "record"]))
    place, amount = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 255))
    return kind, place, amount, draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 1e-30, -1.0, 30.0, 1e3, 6e4, 3e38]))


def damaged(data, kind, place, amount, number, factor):
    header_end = 8 + int.from_bytes(data[:8], "little")
    if kind in ("bytes", "header bytes"):
        changed = bytearray(data)
        changed[int(place * (header_end if kind == "header bytes" else len(data)))] = amount
        return bytes(changed)
    if kind == "cut":
        return data[: int(place * len(data))]
    if kind == "longer":
        return data + bytes([amount]) * (1 + number % 5000)
    names = sorted(name for name in header_of(data) if name != "__metadata__")
    name = names[int(place * len(names))]
    if kind == "values":
        return changed_tensors(data, lambda all: all[name].view(-1)[amount % all[name].numel() :].mul_(factor))
    if kind == "entry":
        edits = [
            lambda entry: entry.update(shape=[number, amount]),
            lambda entry: entry.update(shape=entry["shape"][::-1]),
            lambda entry: entry.update(dtype=["F32", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "", "\x00"][amount % 8]),
            lambda entry: entry.update(data_offsets=[number, number + amount]),
            lambda entry: entry.clear(),
        ]
        return changed_header(data, lambda header: edits[amount % len(edits)](header[name]))
    values = [number, -1, "", None, [], {}, factor, str(number), "\ud800"]

    def edit(header):
        metadata, record = record_of(header)
        header["__metadata__"][metadata] = json.dumps(record | {sorted(record)[int(place * len(record))]: values[amount % 9]})

    return changed_header(data, edit)


def test_two_thousand_damaged_adapters_are_refused_with_a_reason_or_are_within_the_bounds(tiny_base):
    """The gate itself, without HTTP: nothing else than a refusal comes out of it, and nothing that is not finite passes."""
    spec = AdapterSpec.from_config(tiny_base.model.config, identity=tiny_base.identity)
    data, counts = small_adapter(spec).to_bytes(), {"accepted": 0, "refused": 0}

    @settings(max_examples=MUTATIONS, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
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
    assert min(counts.values()) > 100 and sum(counts.values()) >= MUTATIONS


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
    fields = {"max_tokens": 400, "temperature": 1.5, "seed": 1, "stream": True}
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
