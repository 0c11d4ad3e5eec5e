"""While something takes long or waits: its memory is counted, the event loop serves others, and each key has its own share."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
from engine_cases import KEY, OTHER_KEY
from hostile import small_adapter

from distilledprag.engine import application
from distilledprag.engine.tokenization import Tokenization
from distilledprag.http.bodies import AT_ONCE, BodyReader, PerKeyExecutor
from distilledprag.http.errors import BusyError, RequestError
from distilledprag.prompts.token_ids import PlainTextEncoder


class Sent:
    """A request whose body comes in the given pieces."""

    def __init__(self, *pieces, tenant="a"):
        self.headers, self.state = {}, SimpleNamespace(tenant=tenant)
        self._messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self._messages.append({"type": "http.request"})

    async def receive(self):
        return self._messages.pop(0)


async def refusal(bodies, request):
    with pytest.raises(BusyError) as caught:
        async with bodies.held(request, 100):
            pass
    return caught.value.code


def test_a_body_counts_until_it_has_been_looked_at():
    async def check():
        bodies = BodyReader(memory=100, memory_per_key=60)
        async with bodies.held(Sent(b"x" * 30, b"y" * 10), 100) as body:
            assert body == b"x" * 30 + b"y" * 10
            assert await refusal(bodies, Sent(b"x" * 21)) == "too_many_bodies_of_key"
            async with bodies.held(Sent(b"x" * 50, tenant="b"), 100):
                assert await refusal(bodies, Sent(b"x" * 11, tenant="c")) == "too_many_requests"
                async with bodies.held(Sent(b"x" * 10, tenant="c"), 100):
                    pass
        with pytest.raises(TimeoutError, match="of the one who looks"):  # is not taken for a slow body
            async with bodies.held(Sent(b"x" * 60), 100):
                raise TimeoutError("of the one who looks")
        async with bodies.held(Sent(b"x" * 60), 100), bodies.held(Sent(b"x" * 40, tenant="b"), 100):
            pass

    asyncio.run(check())


def run_all(calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def test_adapters_that_wait_for_their_check_are_counted(start_engine, monkeypatch):
    monkeypatch.setattr(application, "CHECKING", 1)

    def build(engine, *rest):
        """An engine with room for three and a half of these bodies."""
        size = len(small_adapter(engine.spec).to_bytes())
        monkeypatch.setattr(application, "BODIES_AT_ONCE", 3.5 * size / engine.max_adapter_bytes)
        return application.build_application(engine, *rest)

    running = start_engine(build=build)
    data = small_adapter(running.engine.spec).to_bytes()
    accept, go = running.engine.accept, threading.Event()
    monkeypatch.setattr(running.engine, "accept", lambda owner, bytes: (go.wait(60), accept(owner, bytes))[1])
    statuses = []

    def send(key):
        with running.http(key) as http:
            statuses.append(http.post("/v1/adapters", content=data).status_code)
            if len(statuses) == 3:
                go.set()

    for thread in run_all([lambda key=key: send(key) for key in [KEY, OTHER_KEY] * 3]):
        thread.join()
    assert sorted(statuses) == [201, 201, 201, 429, 429, 429]


def test_a_long_prompt_does_not_keep_others_from_their_answers(running, monkeypatch):
    go, begun, encode = threading.Event(), threading.Semaphore(0), running.engine.tokenization.completion_prompt

    def slowly(prompt):
        if len(prompt) > AT_ONCE:
            begun.release()
            assert go.wait(60)
        return encode(prompt)

    monkeypatch.setattr(running.engine.tokenization, "completion_prompt", slowly)
    long = "Where does Anna live? " * (AT_ONCE // 20)
    statuses = []
    threads = run_all([lambda: statuses.append(running.complete(long, max_tokens=1).status_code)] * 4)
    assert begun.acquire(timeout=30)
    for key in (KEY, OTHER_KEY):
        assert running.complete("Where", max_tokens=1, key=key).status_code == 200
    assert not begun.acquire(blocking=False), "one long prompt of a key at a time"
    other = run_all([lambda: running.complete(long, max_tokens=1, key=OTHER_KEY)])
    assert begun.acquire(timeout=30), "another key has its own turn"
    go.set()
    for thread in [*threads, *other]:
        thread.join()
    assert statuses == [200] * 4


def test_work_of_one_key_is_done_one_after_the_other_and_errors_reach_the_caller():
    async def check():
        executor, running, most = PerKeyExecutor(), 0, 0

        def work(number):
            nonlocal running, most
            running += 1
            most = max(most, running)
            running -= 1
            if number == 3:
                raise RequestError("the third")
            return number

        calls = [executor.run("a", AT_ONCE + 1, lambda number=number: work(number)) for number in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert most == 1 and [str(result) for result in results] == ["0", "1", "2", "the third", "4", "5"]
        assert await executor.run("a", 1, threading.get_ident) == threading.get_ident()
        assert await executor.run("a", AT_ONCE + 1, threading.get_ident) != threading.get_ident()

    asyncio.run(check())


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_made_tokens(tiny_base, monkeypatch):
    side = Tokenization(tiny_base)

    def never(*_arguments, **_options):
        raise AssertionError("it was made tokens")

    monkeypatch.setattr(type(tiny_base.tokenizer), "encode", never)
    monkeypatch.setattr(PlainTextEncoder, "text", never)
    longest = max(map(len, tiny_base.tokenizer.get_vocab()))
    text = "a" * (longest * tiny_base.context_length + 1)
    for make in (lambda: side.completion_prompt(text), lambda: side.chat_prompt([{"role": "user", "content": text}])):
        with pytest.raises(RequestError, match="characters, so at least") as caught:
            make()
        assert caught.value.code == "context_length_exceeded"
