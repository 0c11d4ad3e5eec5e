"""State adapters over HTTP: beside LoRA adapters, with prompts of as many masks, and such that mean harm."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from engine_cases import DOCUMENTS, QUESTIONS
from hostile import changed_header, small_adapter, victim, with_header_text
from safetensors.torch import load, save

from distilledprag.base.llm import MAX_ANSWER_TOKENS, load_base
from distilledprag.engine.adapter_store import Quotas
from distilledprag.engine.service import Settings
from distilledprag.lora.states import STATES_KEY, StateAdapter
from distilledprag.pipeline import DistilledPRAG


def send(running, data):
    with running.http() as http:
        return http.post("/v1/adapters", content=data)


def test_both_kinds_are_listed_with_their_rows_or_rank(running, adapter_bytes, masked_prompts, engine_base):
    masks = masked_prompts[0].count(engine_base.mask_token_id)
    states, lora = running.upload(adapter_bytes[0]), running.upload(small_adapter(running.engine.spec, rank=3).to_bytes())
    assert (states["rank"], states["bytes"]) == (masks, masks * 32 * 4) and lora["rank"] == 3
    with running.http() as http:
        assert [adapter["rank"] for adapter in http.get("/v1/adapters").json()["data"]] == [masks, 3]
        assert http.get(f"/v1/adapters/{states['id']}").json()["bytes"] == states["bytes"]
        assert http.delete(f"/v1/adapters/{states['id']}").json()["deleted"]
    assert running.engine.adapters.count == 1
    assert running.complete(masked_prompts[0], lora["model"]).status_code == 200, "a LoRA adapter takes any prompt"


@pytest.mark.parametrize("change", [lambda ids, mask: [*ids[:5], mask, *ids[5:]], lambda ids, mask: ids[:5]])
def test_a_prompt_of_more_or_fewer_masks_is_refused(running, adapter_bytes, masked_prompts, engine_base, change):
    adapter, mask = running.upload(adapter_bytes[0]), engine_base.mask_token_id
    prompt = change(masked_prompts[0], mask)
    response = running.complete(prompt, adapter["model"])
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "mask_count", "prompt")
    assert f"the adapter has {adapter['rank']} rows, the prompt {prompt.count(mask)} masks" in error["message"]
    streamed = running.complete(prompt, adapter["model"], stream=True)
    assert streamed.status_code == 400 and streamed.json()["error"]["code"] == "mask_count"


def test_states_as_a_peft_adapter_on_one_down_projection_answer_as_peft_does(start_engine, tiny_prepared_folder):
    prag = DistilledPRAG.from_pretrained(tiny_prepared_folder, dtype=torch.float32)
    running = start_engine(base=load_base(tiny_prepared_folder, dtype=torch.float32))
    adapter = prag.encode(DOCUMENTS[:1])
    assert list(adapter.modules) == ["layers.0.mlp.down_proj"]
    uploaded = running.upload(adapter.to_bytes())
    prompt = prag.peft_prompt(QUESTIONS[0], DOCUMENTS[:1])
    response = running.complete(prompt, uploaded["model"], max_tokens=MAX_ANSWER_TOKENS)
    assert response.json()["choices"][0]["text"].strip() == prag.answer_peft(QUESTIONS[0], DOCUMENTS[:1])


def test_masks_of_a_chat_take_the_rows_too(running, adapter_bytes):
    adapter = running.upload(adapter_bytes[0])
    body = {"model": adapter["model"], "max_tokens": 4, "temperature": 0}
    with running.http() as http:
        for masks, status in ((adapter["rank"], 200), (adapter["rank"] - 1, 400)):
            messages = [{"role": "user", "content": f"Passage 1:{'<|doc_mask|>' * masks} Where?"}]
            assert http.post("/v1/chat/completions", json=body | {"messages": messages}).status_code == status


def test_quotas_count_the_rows_as_they_lie_in_memory(start_engine, prag):
    states = StateAdapter(torch.ones(100, 32), 1, prag.base.identity)
    running = start_engine(Settings(quotas=Quotas(bytes_per_tenant=2 * states.nbytes + 1)))
    assert [send(running, states.to_bytes()).status_code for _ in range(3)] == [201, 201, 429]


def rebuilt(data, tensors=None, **record):
    """The file with other tensors, or other fields of its record."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    fields = json.loads(header["__metadata__"][STATES_KEY]) | record
    return save({**load(data), **(tensors or {})}, {STATES_KEY: json.dumps(fields)})


def half(change):
    """A half-precision file whose rows `change` changed."""

    def make(states):
        data = states.to_bytes("float16")
        rows = load(data)["rows"]
        change(rows)
        return rebuilt(data, {"rows": rows})

    return make


def with_rows(count, width):
    return lambda states: replace(states, rows=torch.ones(count, width)).to_bytes()


def base_of(states, **fields):
    return rebuilt(states.to_bytes(), base=states.base.to_dict() | fields)


def unprepared(states):
    return {name: value for name, value in states.base.to_dict().items() if name != "prepared_hash"}


def nested(states):
    """A record of lists in lists: short enough for the header, too deep for a parser that calls itself."""

    def deepen(header):
        header["__metadata__"][STATES_KEY] = "[" * 15_000

    return changed_header(states.to_bytes(), deepen)


HOSTILE = {
    "nan": (half(lambda rows: rows[1].fill_(float("nan"))), 422, "not_finite"),
    "one infinite": (half(lambda rows: rows[0, 3:4].fill_(float("inf"))), 422, "not_finite"),
    "an infinite scale": (lambda s: rebuilt(s.to_bytes(), {"scale": torch.full((s.count,), float("inf")).half()}), 422,
                          "not_finite"),
    "narrower": (with_rows(4, 31), 422, "shape"),
    "wider": (with_rows(4, 4096), 422, "shape"),
    "no rows": (lambda s: rebuilt(s.to_bytes(), {"rows": torch.zeros(0, 32, dtype=torch.int8)}), 422, "shape"),
    "more rows than the model reads": (with_rows(2049, 32), 422, "shape"),
    "rows of one dimension": (lambda s: rebuilt(s.to_bytes(), {"rows": torch.zeros(32, dtype=torch.int8)}), 422, "shape"),
    "fewer scales than rows": (lambda s: rebuilt(s.to_bytes(), {"scale": torch.ones(1).half()}), 422, "shape"),
    "a layer above the last": (lambda s: replace(s, layer=3).to_bytes(), 422, "keys"),
    "a layer below the first": (lambda s: rebuilt(s.to_bytes(), layer=-1), 422, "keys"),
    "a layer that is no number": (lambda s: rebuilt(s.to_bytes(), layer="1"), 422, "record"),
    "a layer that is true": (lambda s: rebuilt(s.to_bytes(), layer=True), 422, "record"),
    "a layer of many digits": (lambda s: rebuilt(s.to_bytes(), layer=10**4000), 422, None),
    "float32": (lambda s: rebuilt(s.to_bytes("float16"), {"rows": s.rows.float()}), 422, "dtype"),
    "another precision": (lambda s: rebuilt(s.to_bytes(), precision="int4"), 422, "record"),
    "a precision that is a list": (lambda s: rebuilt(s.to_bytes(), precision=[]), 422, "record"),
    "a further tensor": (lambda s: rebuilt(s.to_bytes(), {"more": torch.ones(1)}), 422, "keys"),
    "another base": (lambda s: base_of(s, config_hash="0" * 64), 409, "wrong_base"),
    "another mask": (lambda s: base_of(s, mask_row_hash="0" * 64), 409, "wrong_base"),
    "another reader or A": (lambda s: base_of(s, prepared_hash="0" * 64), 409, "wrong_base"),
    "a base without its preparation": (lambda s: rebuilt(s.to_bytes(), base=unprepared(s)), 422, "record"),
    "a base that is text": (lambda s: rebuilt(s.to_bytes(), base="base"), 422, "record"),
    "no record": (lambda s: changed_header(s.to_bytes(), lambda h: h["__metadata__"].update({STATES_KEY: "x"})), 422, "record"),
    "a deep record": (nested, 422, "record"),
    "more metadata": (lambda s: changed_header(s.to_bytes(), lambda h: h["__metadata__"].update(more="x")), 422, "record"),
    "the last byte gone": (lambda s: s.to_bytes()[:-1], 422, "truncated"),
    "trailing bytes": (lambda s: s.to_bytes() + b"more", 422, "malformed"),
    "a shape of 2^60": (lambda s: changed_header(s.to_bytes(), lambda h: h["rows"].update(shape=[2**60, 32])), 422, "shape"),
    "a header that is none": (lambda s: with_header_text(s.to_bytes(), b"{"), 422, "malformed"),
}  # fmt: skip


def test_every_hostile_file_is_refused_for_its_reason_and_harms_nobody(running, prag, adapter_bytes, masked_prompts):
    states = prag.encode_states(["Anna lives in Oakport."])
    assert send(running, states.to_bytes()).status_code == 201 == send(running, states.to_bytes("float16")).status_code
    wrong = []
    with victim(running, adapter_bytes[0], masked_prompts[0]):
        for name, (make, status, code) in HOSTILE.items():
            response = send(running, make(states))
            error = response.json().get("error", {"code": "accepted", "message": ""})
            if response.status_code != status or (code and error["code"] != code) or len(error["message"]) < 30:
                wrong.append((name, response.status_code, error))
    assert not wrong
    assert running.engine.adapters.count == 3  # the good ones and the victim's


def test_states_of_any_size_end_at_most_their_own_answer(running, prag, adapter_bytes, masked_prompts):
    count = masked_prompts[1].count(prag.base.mask_token_id)
    with victim(running, adapter_bytes[0], masked_prompts[0]):
        for size in (0.0, 1e-6, 6e4, 8e6):
            rows = torch.full((count, 32), size)
            name = running.upload(StateAdapter(rows, 2, prag.base.identity).to_bytes())["model"]
            response = running.complete(masked_prompts[1], name)
            assert response.status_code == 200 or response.json()["error"]["code"] == "not_finite_answer"
