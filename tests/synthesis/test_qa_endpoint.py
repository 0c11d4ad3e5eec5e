"""The endpoint client against a real server that is slow, refuses, breaks off and writes nonsense. Waiting costs no time."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading

import pytest
from qa_server import COMPLETION_TOKENS, MODEL, PROMPT_TOKENS, Answer, LlmServer

from distilledprag.errors import ConfigError, EndpointError
from distilledprag.synthesis.endpoint import Endpoint, EndpointSettings, Gate, duration, pause_after, retry_after
from distilledprag.synthesis.llm import Reply, Request, RequestFailed

REQUEST = Request("write", [{"role": "user", "content": "hello"}], 0.7, 50)
GOOD = Reply("hello yourself", PROMPT_TOKENS, COMPLETION_TOKENS, "stop")


class FakeTime:
    """A clock that moves only when somebody sleeps; `slept` lists how long."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def gate(self):
        return Gate(lambda: self.now, self.sleep)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(faults, count=1, times=None, **settings):
    """Send `count` requests at once to a server that first answers with `faults`; returns (results, endpoint, server).

    A fault may be a function of the request's body, which answers then.
    """
    times = times or FakeTime()

    def script(number, body):
        fault = faults[number] if number < len(faults) else Answer(GOOD.text)
        return fault(body) if callable(fault) else fault

    async def main():
        endpoint = Endpoint(EndpointSettings(server.url, MODEL, **settings), times.gate())
        try:
            return await asyncio.gather(*(endpoint.reply(REQUEST) for _ in range(count)), return_exceptions=True), endpoint
        finally:
            await endpoint.close()

    with LlmServer(script) as server:
        for fault in faults:
            if not callable(fault) and fault.hold is not None:
                fault.hold = server.released
        results, endpoint = asyncio.run(main())
    return results, endpoint, server


def test_a_reply_comes_with_its_tokens_and_the_request_says_what_was_asked():
    (reply,), endpoint, server = ask([], api_key="secret", response_format="json_object", extra={"top_p": 0.5})
    assert reply == GOOD and not endpoint.retried and server.keys == ["Bearer secret"]
    assert server.bodies == [{
        "model": MODEL, "messages": REQUEST.messages, "max_tokens": 50, "temperature": 0.7, "top_p": 0.5,
        "response_format": {"type": "json_object"},
    }]  # fmt: skip


FAULTS = {
    "HTTP 500": Answer(status=500),
    "HTTP 502": Answer(status=502, raw=b"<html>bad gateway</html>"),
    "HTTP 429": Answer(status=429),
    "connection failed (RemoteProtocolError)": Answer("cut", cut=20),
    "the body was not a chat completion": Answer(raw=b'{"choices": ['),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_passing_fault_is_tried_again(reason):
    times = FakeTime()
    (reply,), endpoint, server = ask([FAULTS[reason]], times=times)
    assert reply == GOOD and len(server.bodies) == 2
    assert endpoint.retried == {reason: 1} and 0.5 <= times.slept[0] <= 1.0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff"])
def test_a_body_that_is_no_completion_is_tried_again(body):
    (reply,), endpoint, _ = ask([Answer(raw=body)])
    assert reply == GOOD and sum(endpoint.retried.values()) == 1


def test_a_stream_in_chunks_that_breaks_off_is_tried_again():
    (reply,), endpoint, _ = ask([Answer("cut", cut=30, chunked=True)])
    assert reply == GOOD and endpoint.retried == {"connection failed (RemoteProtocolError)": 1}


def test_a_slow_answer_is_given_up_and_asked_for_again():
    (reply,), endpoint, _ = ask([Answer("late", hold=threading.Event())], timeout=1.0)
    assert reply == GOOD and set(endpoint.retried) == {"timed out"}


def test_waits_grow_from_try_to_try_and_end():
    times = FakeTime()
    (failure,), _, server = ask([Answer(status=500)] * 9, times=times, retries=8)
    assert isinstance(failure, RequestFailed) and str(failure) == "HTTP 500, 9 times" and len(server.bodies) == 9
    bounds = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(bound / 2 <= slept <= bound for slept, bound in zip(times.slept, bounds, strict=True))


def test_a_rate_limit_holds_every_request_as_long_as_the_server_says():
    times = FakeTime()
    results, _, server = ask([Answer(status=429, headers={"Retry-After": "7"})], count=1, times=times)
    assert results == [GOOD] and times.slept == [7.0] and len(server.bodies) == 2

    async def another():
        gate = times.gate()
        gate.hold(7.0)
        await asyncio.gather(*(gate.wait() for _ in range(3)))

    start = times.now
    asyncio.run(another())
    assert times.now - start >= 7.0


def test_a_server_with_nothing_left_is_not_asked_before_its_reset():
    times = FakeTime()
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12s"}

    async def main():
        endpoint = Endpoint(EndpointSettings(server.url, MODEL), times.gate())
        for _ in range(3):
            await endpoint.reply(REQUEST)
        await endpoint.close()

    with LlmServer(lambda number, _: Answer("x", headers=spent if number == 1 else {})) as server:
        asyncio.run(main())
    assert times.slept == [12.0]


FATAL = {
    401: ("refused the API key", {}),
    403: ("refused the API key", {}),
    404: ("no such path or model", {}),
    402: ("account", {}),
    429: ("asks to wait 86400 seconds", {"Retry-After": "86400"}),
}


@pytest.mark.parametrize("status", FATAL)
def test_what_no_request_can_pass_ends_the_run_and_says_why(status):
    message, headers = FATAL[status]
    (failure,), _, server = ask([Answer("what the server says", status=status, headers=headers)], api_key="secret")
    assert isinstance(failure, EndpointError) and message in str(failure) and "secret" not in str(failure)
    assert len(server.bodies) == 1


def test_an_empty_account_is_not_taken_for_a_rate_limit():
    quota = b'{"error": {"message": "pay first", "code": "insufficient_quota"}}'
    (failure,), _, server = ask([Answer(status=429, raw=quota)])
    assert isinstance(failure, EndpointError) and "used up" in str(failure) and len(server.bodies) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_fails_alone(status):
    (failure, reply), _, server = ask([Answer("too long", status=status)], count=2)
    assert {type(failure), type(reply)} == {RequestFailed, Reply} and len(server.bodies) == 2


def test_a_model_that_knows_only_max_completion_tokens_gets_it():
    fault = Answer("Unsupported parameter: use 'max_completion_tokens' instead", status=400)
    (reply,), _, server = ask([fault])
    assert reply == GOOD and "max_tokens" in server.bodies[0]
    assert server.bodies[1]["max_completion_tokens"] == 50 and "max_tokens" not in server.bodies[1]


@pytest.mark.parametrize("field, said", [
    ("temperature", "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) is supported."),
    ("response_format", "response_format is not supported by this model"),
])  # fmt: skip
def test_a_server_that_takes_no_such_parameter_is_asked_without_it_from_then_on(field, said):
    both_are_here = threading.Barrier(2)

    def refuse(body):
        if field not in body:
            return Answer(GOOD.text)
        both_are_here.wait(timeout=20)
        return Answer(said, status=400)

    (first, second), endpoint, server = ask([refuse] * 4, count=2, retries=0, response_format="json_object")
    assert first == second == GOOD and len(server.bodies) == 4
    assert all(field in body for body in server.bodies[:2]) and not any(field in body for body in server.bodies[2:])
    (change,) = endpoint.changed
    assert field in change and said[:40] in change and endpoint.retried == {f"{field} left out": 2}


def test_a_temperature_out_of_range_is_not_changed_behind_the_users_back():
    (failure,), endpoint, _ = ask([Answer("temperature must be between 0 and 2", status=400)])
    assert isinstance(failure, RequestFailed) and not endpoint.changed


@pytest.mark.parametrize("message, finish, reply", [
    ({"content": None}, "length", Reply("", None, None, "length")),
    ({"content": None, "reasoning_content": '{"question": "draft"}'}, "length", Reply("", None, None, "length")),
    ({"content": None, "refusal": "I will not."}, "stop", Reply("", None, None, "refusal")),
    ({"content": [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]}, "stop", Reply("in parts", finish="stop")),
])  # fmt: skip
def test_a_reply_without_content_says_how_it_ended(message, finish, reply):
    raw = json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()
    assert ask([Answer(raw=raw)])[0] == [reply]


def test_what_is_not_a_web_address_is_refused():
    with pytest.raises(ConfigError, match="not a web address"):
        Endpoint(EndpointSettings("localhost:8000", MODEL))


def test_nobody_at_the_address_fails_the_request():
    server = LlmServer()
    server.server.server_close()

    async def main():
        endpoint = Endpoint(EndpointSettings(server.url, MODEL, retries=1), FakeTime().gate())
        try:
            await endpoint.reply(REQUEST)
        finally:
            await endpoint.close()

    with pytest.raises(RequestFailed, match="connection failed"):
        asyncio.run(main())


@pytest.mark.parametrize(
    "text, seconds",
    [("6m0s", 360), ("1.5s", 1.5), ("20ms", 0.02), ("1h2m3s", 3723), ("7", 7), ("soon", None), ("1s later", None), ("", None),
     (None, None), ("-3", None), ("nan", None), ("inf", None)],
)  # fmt: skip
def test_durations_are_read_as_servers_write_them(text, seconds):
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


NOW = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "5"}, 5.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 01 Jan 2025 00:01:00 GMT"}, 60.0),
        ({"retry-after": "Wed, 01 Jan 2020 00:01:00 GMT"}, 0.0),
        ({"retry-after": "whenever"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after(headers, NOW) == seconds


def test_a_pause_needs_a_reset_and_is_bounded():
    def headers(remaining, reset):
        return {"x-ratelimit-remaining-tokens": remaining, "x-ratelimit-reset-tokens": reset}

    assert pause_after(headers("399", "8s"), tokens=400) == 8.0
    assert pause_after(headers("400", "8s"), tokens=400) == 0.0
    assert pause_after(headers("0", "later"), tokens=400) == 0.0
    assert pause_after(headers("0", "2h0m0s"), tokens=400) == 60.0
