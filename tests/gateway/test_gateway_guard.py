"""The wire guard: what it must stop in every encoding, what it must let through, and that it fails closed."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from dataclasses import replace

import httpx2
import pytest
import torch
from gateway_serving import DOCUMENTS
from hypothesis import given, settings
from hypothesis import strategies as st

from distilledprag.gateway.engine_client import LEDGER, RULE, GuardedTransport
from distilledprag.gateway.guard.protected import AllowedRuns, Protected, WireGuardError, holds_token_run, runs, words
from distilledprag.gateway.guard.rules import AdapterRule, AnswerSettings, BareRule, Masks, PlainTextRule, PromptRule, RemovalRule
from distilledprag.gateway.quotes import longest_quote
from distilledprag.lora.states import StateAdapter

QUESTION = "In which city does Anna Tovberg live?"
TEXTS = list(DOCUMENTS.values())
SECRET = "Marten Hale"


@pytest.fixture(scope="module")
def prompts(prag):
    return prag.prompts


@pytest.fixture(scope="module")
def built(prompts):
    return prompts.build(QUESTION, TEXTS)


@pytest.fixture(scope="module")
def reference(prompts):
    return prompts.build(QUESTION, [""] * len(TEXTS)).open_ids


@pytest.fixture(scope="module")
def protected(prag, built, reference):
    ids = [index for index, own in zip(built.open_ids, built.is_document, strict=True) if own]
    allowed = AllowedRuns([words(prag.base.tokenizer.decode(reference))], [words(QUESTION)])
    return Protected.of(TEXTS, [ids], allowed, AllowedRuns([reference], []))


@pytest.fixture(scope="module")
def rule(prag, prompts, protected, reference):
    lengths = [sum(prompts.build("?", [text]).is_document) for text in TEXTS]
    labels = [prompts.passage_label(number) for number in (1, 2, 3)]
    masks = Masks(prag.base.mask_token_id, lengths, labels)
    return PromptRule(protected, reference, masks, "base:abc", AnswerSettings(8), prag.base.tokenizer.decode)


def body(ids, **fields):
    fields = {"model": "base:abc", "prompt": ids, "max_tokens": 8, "temperature": 0.0, "stream": False, **fields}
    return json.dumps(fields, separators=(",", ":")).encode()


def check(rule, data):
    rule.check("POST", "/v1/completions", data)


def test_a_masked_prompt_passes(rule, built):
    check(rule, body(built.masked_ids))
    check(replace(rule, settings=AnswerSettings(8, top_p=0.5)), body(built.masked_ids, top_p=0.5))


def test_a_prompt_whose_settings_are_not_the_users_or_out_of_bounds_is_stopped(rule, built):
    for others in (AnswerSettings(9), AnswerSettings(8, 0.5), AnswerSettings(8, stream=True), AnswerSettings(8, top_p=1.0)):
        with pytest.raises(WireGuardError):
            check(replace(rule, settings=others), body(built.masked_ids))
    for fields in ({"max_tokens": 10**7}, {"max_tokens": 0}, {"temperature": 3.0}, {"top_p": 0.0}, {"stream": 1}):
        outside = AnswerSettings(**{"max_tokens": 8, "temperature": 0.0, **fields})
        with pytest.raises(WireGuardError):
            check(replace(rule, settings=outside), body(built.masked_ids, **fields))


def test_the_same_request_written_in_another_way_is_stopped(rule, built):
    data = body(built.masked_ids)
    for other in (
        data + b" ",
        data.replace(b",", b", ", 1),
        data.replace(b'"model"', b'"\\u006dodel"'),
        data[:-1] + b',"stream":false}',
    ):
        with pytest.raises(WireGuardError):
            check(rule, other)


def test_a_single_token_of_a_document_in_place_of_its_mask_is_stopped(rule, built):
    for place in (place for place, own in enumerate(built.is_document) if own):
        leaking = list(built.masked_ids)
        leaking[place] = built.open_ids[place]
        with pytest.raises(WireGuardError):
            check(rule, body(leaking))


def test_the_open_prompt_is_stopped_and_passes_only_as_plain_text(rule, built):
    with pytest.raises(WireGuardError):
        check(rule, body(built.open_ids))
    plain = PlainTextRule(built.open_ids, "base:abc", AnswerSettings(8))
    check(plain, body(built.open_ids))
    for data in (body(built.open_ids[1:]), body(built.open_ids, seed=1)):
        with pytest.raises(WireGuardError):
            check(plain, data)


ENCODINGS = {
    "utf-8": lambda text: text,
    "upper case": str.upper,
    "json escapes": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 with something before it": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64, for addresses": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of json escapes": lambda text: base64.b64encode("".join(f"\\u{ord(c):04x}" for c in text).encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "other punctuation": lambda text: text.replace(" ", " _ "),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", ["is based in Millport", "ask Copperleaf now", "Its chief executive is Marten Hale."])
def test_text_of_a_document_is_found_in_every_encoding(protected, encoding, text):
    data = json.dumps({"note": ENCODINGS[encoding](text)}).encode()
    with pytest.raises(WireGuardError):
        protected.check_bytes(data, "the request")


SURROUNDINGS = st.binary(max_size=30)


@given(st.sampled_from(TEXTS), st.integers(0, 20), st.sampled_from(sorted(ENCODINGS)), SURROUNDINGS, SURROUNDINGS)
@settings(max_examples=150, deadline=None)
def test_any_run_of_three_words_is_found_among_other_bytes(text, start, encoding, before, after):
    split = text.split()
    start = min(start, len(split) - 4)
    protected = Protected.of(TEXTS, [], AllowedRuns([], []), AllowedRuns([], []))
    data = before + b' "' + ENCODINGS[encoding](" ".join(split[start : start + 4])).encode() + b'" ' + after
    with pytest.raises(WireGuardError):
        protected.check_bytes(data, "the request")


def test_what_the_guard_says_holds_nothing_of_the_document(protected):
    with pytest.raises(WireGuardError) as caught:
        protected.check_text("Its chief executive is Marten Hale.", "the prompt")
    assert not set(words(str(caught.value))) & {"chief", "executive", "marten", "hale"}


def test_names_and_numbers_are_protected_unless_the_question_has_them(protected):
    assert {"oakport", "46", "000", "2019", "marten", "412"} <= protected.rare
    assert not {"anna", "tovberg"} & protected.rare


@pytest.mark.parametrize("change", [
    {"model": "base:other"}, {"max_tokens": "Oakport"}, {"stream": 1}, {"temperature": True}, {"user": "someone"},
    {"prompt": "Oakport"}, {"prompt": [[1, 2]]}, {"prompt": [1.5]},
])  # fmt: skip
def test_a_request_of_another_form_is_stopped(rule, built, change):
    with pytest.raises(WireGuardError):
        check(rule, body(built.masked_ids, **change))


def test_requests_to_other_places_are_stopped(rule, built):
    for method, path in (("GET", "/v1/completions"), ("POST", "/v1/completions?q=Oakport"), ("POST", "/v1/adapters")):
        with pytest.raises(WireGuardError):
            rule.check(method, path, body(built.masked_ids))
    for method, path, data in (("GET", "/health?Oakport", b""), ("GET", "/v1/models", b"x"), ("POST", "/health", b"")):
        with pytest.raises(WireGuardError):
            BareRule().check(method, path, data)
    RemovalRule("abc").check("DELETE", "/v1/adapters/abc", b"")
    for id in ("../models", "a b", ""):
        with pytest.raises(WireGuardError):
            RemovalRule(id).check("DELETE", f"/v1/adapters/{id}", b"")


@pytest.fixture(scope="module")
def adapters(prag):
    states = prag.encode_states(TEXTS)
    return [states.to_bytes(), replace(states, rows=torch.zeros_like(states.rows)).to_bytes()]


def test_an_adapter_passes(protected, adapters):
    AdapterRule(protected, adapters[1]).check("POST", "/v1/adapters", adapters[0])


HIDDEN = {
    "text": b"Its chief executive is " + SECRET.encode(),
    "base64": base64.b64encode(b"Its chief executive is " + SECRET.encode()),
    "utf-16": "based in Millport, Its chief".encode("utf-16-le"),
}


@pytest.mark.parametrize("kind", [*HIDDEN, "ids of 16 bits", "ids of 32 bits", "ids of 64 bits", "ids, one byte off"])
def test_a_document_hidden_in_an_adapters_numbers_is_found(prag, protected, adapters, kind):
    ids = prag.prompts.build("?", TEXTS[1:2])
    ids = [index for index, own in zip(ids.open_ids, ids.is_document, strict=True) if own][:9]
    codes = {"ids of 16 bits": "H", "ids of 32 bits": "I", "ids of 64 bits": "Q", "ids, one byte off": "H"}
    hidden = HIDDEN[kind] if kind in HIDDEN else struct.pack(f"<{len(ids)}{codes[kind]}", *ids)
    place = len(adapters[0]) // 2 // 8 * 8 + (1 if kind == "ids, one byte off" else 0)
    data = adapters[0][:place] + hidden + adapters[0][place + len(hidden) :]
    with pytest.raises(WireGuardError, match="document"):
        AdapterRule(protected, adapters[1]).check("POST", "/v1/adapters", data)


def test_a_document_in_an_adapters_header_or_behind_its_end_is_found(protected, adapters):
    header = adapters[0].replace(b"precision", b"Millport!", 1)
    for data in (header, adapters[0] + b"Millport", adapters[0][:-1]):
        with pytest.raises(WireGuardError, match="header or size"):
            AdapterRule(protected, adapters[1]).check("POST", "/v1/adapters", data)


@pytest.mark.parametrize("outlier", [1, 10, 30])
def test_many_adapters_of_random_numbers_pass(prag, protected, adapters, outlier):
    """Also those whose rows have one value far above the others, which are small numbers then, as the ids of frequent tokens."""
    rule = AdapterRule(protected, adapters[1])
    states = StateAdapter.from_bytes(adapters[1])
    for seed in range(10):
        rows = torch.randn(states.rows.shape, generator=torch.Generator().manual_seed(seed))
        rows[:, 7] *= outlier
        rule.check("POST", "/v1/adapters", replace(states, rows=rows).to_bytes())


@pytest.mark.parametrize("ids, found", [([40, 41, 42, 43, 44, 45, 46, 47], True), ([40, 41, 42, 43, 44, 45, 46, 99], False)])
def test_token_ids_in_small_numbers_are_found_when_eight_stand_in_a_row(ids, found):
    known = frozenset(runs([40, 41, 42, 43, 44, 45, 46, 47, 48]))
    for order in (ids, ids[::-1]):
        data = bytes(10) + struct.pack(f"<{len(order)}H", *order) + bytes(11)
        assert holds_token_run(data, known, (), 8) == found and holds_token_run(data, known)


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
@settings(deadline=None)
def test_the_longest_quote_is_that_of_a_search_through_all_runs(left, right):
    lengths = [n for n in range(1, 31) if runs(left, n) & runs(right, n)]
    assert longest_quote(" ".join(left), [" ".join(right)]) == max(lengths, default=0)


class Socket(httpx2.AsyncBaseTransport):
    """Stands for the network: notes what reaches it."""

    def __init__(self):
        self.reached = []

    async def handle_async_request(self, request):
        self.reached.append(request)
        return httpx2.Response(200)


class Broken:
    def check(self, method, path, body):
        raise RuntimeError("Oakport")


def send(extensions, headers=None, url="http://engine/health"):
    socket = Socket()
    client = httpx2.AsyncClient(transport=GuardedTransport(socket, {"host": "engine"}), headers={})
    request = httpx2.Request("GET", url, headers=headers or {}, extensions=extensions)
    try:
        asyncio.run(client.send(request))
    except WireGuardError as error:
        assert socket.reached == [] and "Oakport" not in str(error)
        return False
    return len(socket.reached) == 1


def test_the_guard_fails_closed():
    assert send({RULE: BareRule()})
    assert not send({})
    assert not send({RULE: None})
    assert not send({RULE: Broken()})
    assert not send({RULE: BareRule()}, {"x-note": "Oakport"})
    assert not send({RULE: BareRule()}, url="http://engine/health?city=Oakport")


def test_the_ledger_counts_the_bytes_of_http():
    ledger = []
    assert send({RULE: BareRule(), LEDGER: ledger})
    assert ledger[0].bytes == len(b"GET /health HTTP/1.1\r\nHost: engine\r\n\r\n")


def test_a_fault_in_the_prompt_builder_sends_nothing(stage, monkeypatch):
    gateway = stage()
    gateway.add()
    real = gateway.prag.prompts.build

    def forgets_to_mask(question, passages, history=(), **limits):
        prompt = real(question, passages, history, **limits)
        return type(prompt)(prompt.open_ids, prompt.open_ids, prompt.is_document)

    monkeypatch.setattr(gateway.prag.prompts, "build", forgets_to_mask)
    response = gateway.ask("Where does Anna Tovberg live?", max_tokens=2)
    assert response.status_code == 500 and response.json()["error"]["code"] == "wire_guard"
    assert not gateway.engine.prompts()


def test_a_fault_in_the_generator_that_writes_text_sends_nothing(stage, monkeypatch):
    gateway = stage()
    gateway.add()
    real = StateAdapter.to_bytes

    def leaks(states):
        data, hidden = real(states), DOCUMENTS["staff.txt"].encode()
        return data[: -len(hidden)] + hidden if states.rows.any() else data

    monkeypatch.setattr(StateAdapter, "to_bytes", leaks)
    response = gateway.ask("Where does Anna Tovberg live?", max_tokens=2)
    assert response.status_code == 500 and response.json()["error"]["code"] == "wire_guard"
    assert not gateway.engine.uploads() and not gateway.engine.prompts()
