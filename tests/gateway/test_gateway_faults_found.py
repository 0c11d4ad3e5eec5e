"""Faults of the program that would leak, put into a running gateway: the guard finds each, and the engine gets nothing of it."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from gateway_serving import DOCUMENTS

from distilledprag.gateway import answering
from distilledprag.gateway import engine_client as outbound
from distilledprag.lora.states import StateAdapter

QUESTION = "Where does Anna Tovberg live?"
TEXT = DOCUMENTS["staff.txt"]


def ask(gateway):
    return gateway.ask(QUESTION, max_tokens=2, distilledprag={"top_k": 1})


def assert_stopped(gateway):
    response = ask(gateway)
    assert response.status_code == 500 and response.json()["error"]["code"] == "wire_guard"
    assert not gateway.engine.prompts()


def open_ids(gateway):
    prompt = gateway.prag.prompts.build("?", [TEXT])
    return [index for index, own in zip(prompt.open_ids, prompt.is_document, strict=True) if own]


@pytest.fixture
def gateway(stage):
    gateway = stage()
    gateway.add()
    return gateway


def test_a_second_prompt_in_the_same_json_object_is_found(gateway, monkeypatch):
    leak = json.dumps(open_ids(gateway))

    def dumps(fields, **options):
        return f'{{"prompt":{leak},' + json.dumps(fields, **options)[1:]

    monkeypatch.setattr(outbound, "json", SimpleNamespace(dumps=dumps, loads=json.loads))
    assert_stopped(gateway)


@pytest.mark.parametrize("field", ["max_tokens", "temperature", "top_p", "seed"])
def test_token_ids_in_the_digits_of_a_setting_are_found(gateway, monkeypatch, field):
    digits = "".join(f"{index:04}" for index in open_ids(gateway)[:4])
    value = int(digits) if field in ("max_tokens", "seed") else float(f"0.{digits}")
    real = answering.request_fields
    monkeypatch.setattr(answering, "request_fields", lambda *arguments: {**real(*arguments), field: value})
    assert_stopped(gateway)


def test_token_ids_told_by_the_lengths_of_mask_runs_are_found(gateway, monkeypatch):
    builder, secret = gateway.prag.prompts, open_ids(gateway)
    real = builder.build

    def counts(question, passages, history=(), **limits):
        prompt, mask = real(question, passages, history, **limits), builder.mask_token_id
        if not sum(prompt.is_document):
            return prompt
        kept = real(question, [""] * len(passages), history, **limits).open_ids
        masked = [piece for index, token in zip(secret, kept, strict=False) for piece in [token, *[mask] * (index % 7)]]
        masked += kept[len(secret) :]
        return type(prompt)(masked, masked, [index == mask for index in masked])

    monkeypatch.setattr(builder, "build", counts)
    assert_stopped(gateway)


def test_masks_of_the_right_number_at_other_places_are_found(gateway, monkeypatch):
    builder = gateway.prag.prompts
    real = builder.build

    def moves(question, passages, history=(), **limits):
        prompt, mask = real(question, passages, history, **limits), builder.mask_token_id
        count = sum(prompt.is_document)
        kept = [index for index in prompt.masked_ids if index != mask]
        masked = [*kept[:3], *[mask] * count, *kept[3:]]
        return type(prompt)(prompt.open_ids, masked, [index == mask for index in masked])

    monkeypatch.setattr(builder, "build", moves)
    assert_stopped(gateway)


def test_a_passage_that_is_written_into_every_prompt_is_found(gateway, monkeypatch):
    builder, seen = gateway.prag.prompts, []
    real = builder.build

    def remembers(question, passages, history=(), **limits):
        seen.extend(text for text in passages if text)
        return real(f"{' '.join(seen)} {question}", passages, history, **limits)

    monkeypatch.setattr(builder, "build", remembers)
    assert_stopped(gateway)


def spaced(ids, kind, step):
    """Ids as numbers at a distance, with other numbers between them."""
    numbers = np.random.default_rng(0).integers(40000, 50000, len(ids) * step).astype(kind)
    numbers[::step] = ids
    return numbers.tobytes()


HIDING = {
    "float32 ids": lambda text, ids: np.array(ids, "<f4").tobytes(),
    "float64 ids": lambda text, ids: np.array(ids, "<f8").tobytes(),
    "ids of 16 bits, two apart": lambda text, ids: spaced(ids, "<u2", 2),
    "ids of 16 bits, seven apart": lambda text, ids: spaced(ids, "<u2", 7),
    "ids of 32 bits, thirty apart": lambda text, ids: spaced(ids[:8], "<u4", 30),
    "ids of 16 bits, high byte first": lambda text, ids: np.array(ids, ">u2").tobytes(),
    "ids of 16 bits, backwards": lambda text, ids: np.array(ids[::-1], "<u2").tobytes(),
    "utf-32": lambda text, ids: text.encode("utf-32-le"),
    "utf-32, high byte first": lambda text, ids: text.encode("utf-32-be"),
    "utf-16": lambda text, ids: text.encode("utf-16-le"),
    "backwards": lambda text, ids: text[::-1].encode(),
    "backwards in utf-32": lambda text, ids: text[::-1].encode("utf-32-le"),
    "base64 of text backwards": lambda text, ids: base64.b64encode(text[::-1].encode()),
    "in every second byte": lambda text, ids: b"".join(bytes([byte, 0x90]) for byte in text.encode()),
    "in every fourth byte": lambda text, ids: b"".join(bytes([0x91, 0x92, byte, 0x93]) for byte in text.encode()),
}


@pytest.mark.parametrize("way", HIDING)
def test_a_generator_that_writes_a_document_into_its_numbers_is_found(gateway, monkeypatch, way):
    real, hidden = StateAdapter.to_bytes, HIDING[way](TEXT, open_ids(gateway))

    def leaks(states):
        data = real(states)
        assert len(hidden) <= states.rows.numel() or not states.rows.any()
        return data[: -len(hidden)] + hidden if states.rows.any() else data

    monkeypatch.setattr(StateAdapter, "to_bytes", leaks)
    assert_stopped(gateway)
    assert not gateway.engine.uploads()


def test_ids_at_the_begin_of_each_row_of_a_tensor_are_found(gateway, monkeypatch):
    real, ids = StateAdapter.to_bytes, open_ids(gateway)

    def leaks(states):
        data = bytearray(real(states))
        if states.rows.any():
            count, width = states.rows.shape
            numbers = np.frombuffer(data, np.uint8, count * width, len(data) - count * width).reshape(count, width)
            assert count >= len(ids) >= 8
            numbers[: len(ids), :2] = np.array(ids, "<u2").view(np.uint8).reshape(-1, 2)
        return bytes(data)

    monkeypatch.setattr(StateAdapter, "to_bytes", leaks)
    assert_stopped(gateway)


def test_what_the_frame_and_the_question_say_together_passes_though_a_document_says_it_too(stage):
    gateway = stage()
    text = "Passage 1: Question: Where does Anna Tovberg live? The answer is Oakport."
    gateway.add({"forms.txt": text})
    history = [{"role": "user", "content": "Question: Where"}, {"role": "assistant", "content": "does"}]
    gateway.store.remember_answer(gateway.engine_url, "does")
    assert ask(gateway).status_code == 200
    assert gateway.ask("Anna Tovberg?", history=history, max_tokens=2).status_code == 200
