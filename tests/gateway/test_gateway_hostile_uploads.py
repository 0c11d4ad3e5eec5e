"""Uploads made to keep a server busy: others are served meanwhile, and nothing is left of them when their clients leave."""

from __future__ import annotations

import contextlib
import threading

import hostile_files
import httpx2
import pytest
from gateway_serving import DOCUMENTS
from waiting import until

from distilledprag.documents.limits import Limits
from distilledprag.documents.reading import ReadingPool
from distilledprag.gateway import document_routes

SLOW = hostile_files.emphasis()  # minutes of a processor's time


@pytest.fixture
def pool():
    with ReadingPool(Limits(cpu=100)) as pool:
        yield pool


def upload(gateway, name, data, timeout):
    """The answer, or None when the client left before it came."""
    with contextlib.suppress(httpx2.TimeoutException), httpx2.Client(base_url=gateway.client.base_url, timeout=timeout) as http:
        return http.post("/v1/documents", files={"file": (name, data)})


def test_others_are_served_while_hostile_files_are_read_and_all_ends_when_their_clients_leave(stage, pool):
    gateway = stage(pool=pool)
    gateway.add()
    left = []
    threads = [threading.Thread(target=lambda: left.append(upload(gateway, "slow.md", SLOW, 2.0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(list(gateway.store.reading_folder.glob("reading-*/document.md"))) == pool.workers)
    assert gateway.client.get("/health").json()["documents"] == len(DOCUMENTS)
    assert gateway.client.get("/v1/documents").json()["total"] == len(DOCUMENTS)
    assert gateway.ask("Where does Anna Tovberg live?", max_tokens=2).status_code == 200
    for thread in threads:
        thread.join()
    assert left == [None] * 6  # each of them was still waiting when its client left
    until(lambda: not list(gateway.store.reading_folder.glob("reading-*")))
    assert upload(gateway, "notes.txt", b"Boris keeps bees.", 60).status_code == 200
    assert gateway.client.get("/v1/documents").json()["total"] == len(DOCUMENTS) + 1


def test_more_documents_than_may_wait_are_refused_for_now(stage, pool, monkeypatch):
    monkeypatch.setattr(document_routes, "MOST_WAITING", 1)
    gateway = stage(pool=pool)
    first = threading.Thread(target=upload, args=(gateway, "slow.md", SLOW, 2.0))
    first.start()
    until(lambda: list(gateway.store.reading_folder.glob("reading-*")))
    refused = upload(gateway, "notes.txt", b"Boris keeps bees.", 60)
    assert refused.status_code == 429 and refused.headers["retry-after"]
    first.join()


def test_a_file_that_costs_too_much_is_a_clear_400_and_a_pool_that_ends_a_503(stage):
    with ReadingPool(Limits(seconds=0.2)) as pool:
        gateway = stage(pool=pool)
        answer = upload(gateway, "slow.md", SLOW, 60)
        assert answer.status_code == 400 and "slow.md was not read within 0.2 seconds" in answer.json()["error"]["message"]
    assert upload(gateway, "slow.md", SLOW, 60).status_code == 503
    assert not list(gateway.store.reading_folder.glob("reading-*"))
