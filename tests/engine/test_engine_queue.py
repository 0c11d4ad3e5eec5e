"""Waiting jobs: bounded, fair between owners, and none is lost; accepted adapters: owned, counted, ending."""

from __future__ import annotations

import time

import pytest

from distilledprag.engine.adapter_store import AdapterStore, Quotas
from distilledprag.engine.jobs import End, FairQueue, Job, Sampling
from distilledprag.http.errors import BusyError, NotFoundError, StoppingError, TimedOutError


def job(tenant="a", seconds=60.0):
    events = []
    made = Job(tenant, [1, 2], 4, None, Sampling(), time.monotonic() + seconds, events.append)
    made.events = events
    return made


def everything(queue):
    taken = []
    while (one := queue.take(lambda _: True)) is not None:
        taken.append(one)
    return taken


def test_both_bounds_are_kept_and_say_when_to_come_back():
    queue = FairQueue(limit=3, tenant_limit=2)
    queue.put(job("a"))
    queue.put(job("a"))
    with pytest.raises(BusyError, match="2 requests of this key") as caught:
        queue.put(job("a"))
    assert caught.value.status == 429 and caught.value.retry_after >= 1
    queue.put(job("b"))
    with pytest.raises(BusyError, match="too many requests"):
        queue.put(job("c"))
    assert queue.waiting == 3


def test_an_owner_with_many_requests_does_not_hold_up_another():
    queue = FairQueue(100, 100)
    many, few = [job("many") for _ in range(5)], [job("few") for _ in range(2)]
    for one in [*many, *few]:
        queue.put(one)
    order = [taken.tenant for taken in everything(queue)]
    assert order == ["many", "few", "many", "few", "many", "many", "many"]
    assert queue.running == 7
    for one in [*many, *few]:
        queue.ended(one)
    assert queue.running == 0


def test_a_job_that_does_not_fit_waits_for_its_turn_and_is_not_passed_over():
    queue = FairQueue(10, 10)
    large, small = job("a"), job("b")
    queue.put(large)
    queue.put(small)
    assert queue.take(lambda one: one is not large) is None
    assert queue.take(lambda one: True) is large


def test_cancelled_and_late_jobs_leave_the_queue_and_are_ended():
    queue = FairQueue(10, 10)
    cancelled, late, good = job(), job(seconds=-1), job()
    for one in (cancelled, late, good):
        queue.put(one)
    cancelled.cancel()
    assert everything(queue) == [good]
    assert cancelled.events == [End()] and isinstance(late.events[0].error, TimedOutError) and not good.events


def test_a_closed_queue_serves_what_waits_and_takes_nothing_new():
    queue = FairQueue(10, 10)
    first = job()
    queue.put(first)
    queue.close()
    with pytest.raises(StoppingError):
        queue.put(job())
    assert queue.wait(0) and everything(queue) == [first] and not queue.wait(0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store():
    released, clock = [], Clock()
    made = AdapterStore(Quotas(ttl=10, per_tenant=2, bytes_per_tenant=100, bytes=150), released.append, clock)
    made.released, made.clock = released, clock
    return made


def test_adapters_belong_to_who_sent_them(store):
    one = store.add("a", "handle", 2, 10)
    assert store.get("a", one.id) is one and store.of("a") == [one] and store.of("b") == []
    for act in (store.get, store.remove):
        messages = set()
        for owner, id in (("b", one.id), ("a", "adapter-unknown"), ("a", "")):
            with pytest.raises(NotFoundError) as caught:
                act(owner, id)
            messages.add(str(caught.value))
        assert len(messages) == 1, "another's adapter looks like none"
    store.remove("a", one.id)
    assert store.released == ["handle"] and store.count == 0


def test_adapters_end_and_ids_are_never_used_again(store):
    one = store.add("a", "first", 2, 10)
    store.clock.now = 9.9
    assert store.seconds_left(one) == pytest.approx(0.1) and store.get("a", one.id)
    store.clock.now = 10.0
    with pytest.raises(NotFoundError):
        store.get("a", one.id)
    assert store.released == ["first"] and store.nbytes == 0
    ids = {store.add("a", "x", 2, 1).id for _ in range(2)}
    assert len(ids) == 2 and one.id not in ids and all(len(id) > 30 for id in ids)


def test_quotas_of_one_owner_and_of_all_are_kept(store):
    store.add("a", 1, 2, 60)
    with pytest.raises(BusyError, match="more than 100 bytes") as caught:
        store.add("a", 2, 2, 60)
    assert caught.value.status == 429 and caught.value.retry_after == 10
    store.add("a", 2, 2, 30)
    with pytest.raises(BusyError, match="has 2 adapters"):
        store.require_room("a", 1)
    with pytest.raises(BusyError, match="memory for adapters is full"):
        store.add("b", 3, 2, 70)
    store.add("b", 3, 2, 50)
    assert store.count == 3 and store.nbytes == 140
