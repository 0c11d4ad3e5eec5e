"""Several engines behind one gateway: an adapter's questions stay with one of them, and move on when it does not answer."""

from __future__ import annotations

import time

import pytest

from distilledprag.errors import ConfigError
from distilledprag.gateway.engine_client import EngineBusyError, EngineClient, EngineUnreachableError
from distilledprag.gateway.replicas import EngineReplicas

QUESTIONS = ("Where does Anna Tovberg live?", "Where is Velkor Foods based?", "When was the Copperleaf built?")
ONE = {"top_k": 1}  # a passage each, so that each question has an adapter of its own


def asked(stage, question, **fields):
    return stage.ask(question, distilledprag=ONE, **fields)


def home(stage) -> int:
    """Number of the engine that was asked, when only one was."""
    (found,) = (number for number, engine in enumerate(stage.engines) if engine.prompts())
    return found


def test_questions_about_the_same_passages_meet_the_engine_that_has_their_adapter(stage):
    stage = stage(replicas=3)
    stage.add()
    for _ in range(4):
        assert asked(stage, QUESTIONS[0]).status_code == 200
    assert sum(len(engine.uploads()) for engine in stage.engines) == 1
    assert len(stage.engines[home(stage)].prompts()) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_gone_costs_no_answer(stage, stream):
    stage = stage(replicas=2)
    stage.add()
    before = asked(stage, QUESTIONS[0]).json()["choices"][0]["message"]["content"]
    gone = home(stage)
    stage.stops[gone]()
    if stream:
        *chunks, last = stage.events(QUESTIONS[0], distilledprag=ONE)
        assert last == "[DONE]"
        after = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        after = asked(stage, QUESTIONS[0]).json()["choices"][0]["message"]["content"]
    assert after == before
    assert len(stage.engines[1 - gone].uploads()) == 1
    health = stage.client.get("/health").json()
    assert health["engine"] == "ready" and health["engines"] == {"ready": 1, "all": 2}


def test_an_engine_that_breaks_before_it_has_written_anything_is_replaced(stage):
    """A stream that ends at once, although it was accepted."""
    stage = stage(replicas=2)
    stage.add()
    asked(stage, QUESTIONS[0])
    first = home(stage)
    stage.engines[first].break_at_once = True
    *_, last = stage.events(QUESTIONS[0], distilledprag=ONE)
    assert last == "[DONE]" and stage.engines[1 - first].prompts()


def test_a_busy_engine_hands_on_and_the_client_hears_of_it_when_all_are_busy(stage):
    stage = stage(replicas=2)
    stage.add()
    asked(stage, QUESTIONS[0])
    first = home(stage)
    stage.engines[first].refuse_with = (429, {"retry-after": "7"})
    assert asked(stage, QUESTIONS[0]).status_code == 200
    stage.engines[1 - first].refuse_with = (429, {"retry-after": "7"})
    refused = asked(stage, QUESTIONS[0])
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    stage.stops[1 - first]()  # one that is gone does not hide that the other is busy
    assert asked(stage, QUESTIONS[0]).status_code == 429
    stage.stops[first]()
    assert "cannot be reached" in asked(stage, QUESTIONS[0]).json()["error"]["message"]


def test_what_the_engine_refuses_of_the_question_itself_goes_nowhere_else(stage):
    stage = stage(replicas=2)
    stage.add()
    for engine in stage.engines:
        engine.refuse_with = (400, {})
    assert asked(stage, QUESTIONS[0]).status_code == 400
    assert sum(len(engine.prompts()) for engine in stage.engines) == 1


def test_a_deleted_document_leaves_every_engine_that_has_it(stage):
    stage = stage(replicas=2)
    added = stage.add()
    asked(stage, QUESTIONS[0])
    first = home(stage)
    stage.engines[first].refuse_with = (503, {})
    asked(stage, QUESTIONS[0])
    assert all(engine.adapters for engine in stage.engines)
    stage.client.delete(f"/v1/documents/{added[0]}")
    end = time.monotonic() + 10
    while any(engine.adapters for engine in stage.engines) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(engine.adapters for engine in stage.engines)


def test_few_adapters_move_when_an_engine_is_added_and_a_resting_one_comes_last():
    clients = [EngineClient(f"http://engine-{number}.example") for number in range(4)]
    before, after = EngineReplicas(clients[:3]), EngineReplicas(clients)
    keys = [f"adapter {number}" for number in range(400)]
    moved = [key for key in keys if before.order(key)[0] is not after.order(key)[0]]
    assert 60 < len(moved) < 140 and all(after.order(key)[0] is clients[3] for key in moved)  # a fourth, and only to the new one
    shares = [sum(before.order(key)[0] is client for key in keys) for client in clients[:3]]
    assert min(shares) > 90
    busy, gone = before.order("a")[:2]
    before.failed(busy, EngineBusyError("busy"))
    before.failed(gone, EngineUnreachableError("gone"))
    assert before.order("a")[0] is busy and before.order("a")[-1] is gone


def test_engines_without_an_adapter_take_turns():
    replicas = EngineReplicas([EngineClient(f"http://engine-{number}.example") for number in range(3)])
    assert len({replicas.order(None)[0].url for _ in range(3)}) == 3


def test_questions_without_documents_are_shared_out(stage):
    stage = stage(replicas=2)
    for number in range(4):
        assert stage.ask(f"Who are you, {number}?", distilledprag={"mode": "closed_book"}).status_code == 200
    assert [len(engine.prompts()) for engine in stage.engines] == [2, 2]


@pytest.mark.parametrize("urls", [[], ["http://engine:1", "http://engine:1/"]])
def test_no_engine_or_one_named_twice_is_refused(urls):
    with pytest.raises(ConfigError, match="--engine"):
        EngineReplicas([EngineClient(url) for url in urls])
