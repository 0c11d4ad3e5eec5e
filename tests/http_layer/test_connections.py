"""Connections that bring no request take nobody's place: they end in time, and at once when places are needed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx2
import pytest

from distilledprag.http.listening import Server, bind, configuration

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n"


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"do", "more_body": True})
    while scope["path"] == "/held" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.body", "body": b"ne"})


@contextlib.contextmanager
def serving(**limits):
    """The port at which `application` is served."""
    with bind("127.0.0.1", 0) as listener:
        ready = threading.Event()
        server = Server(configuration(application, **limits), ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(30)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@contextlib.contextmanager
def connected(port, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(count)]


def status(port):
    with httpx2.Client(trust_env=False, timeout=20) as http:
        return http.get(f"http://127.0.0.1:{port}/").status_code


SENT = {
    "nothing": b"",
    "a part of a request": REQUEST,
    "a whole request": REQUEST + b"\r\n",
    "a request and a part of the next": REQUEST + b"\r\n" + REQUEST,
}


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_a_connection_that_brings_no_further_request_is_closed(sent):
    with serving(request_seconds=0.5) as port, connected(port, 1) as (connection,):
        connection.sendall(sent)
        begin, received = time.monotonic(), b""
        while piece := connection.recv(1000):
            received += piece
        assert 0.4 < time.monotonic() - begin < 15
        assert received.count(b"done") == sent.count(b"\r\n\r\n")


def test_a_request_that_takes_longer_than_the_limit_is_answered():
    with serving(request_seconds=0.3) as port, connected(port, 1) as (connection,):
        connection.sendall(b"POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
        time.sleep(1)
        connection.sendall(b"cde")
        received = b""
        while piece := connection.recv(1000):
            received += piece
        assert received.endswith(b"done")


def test_fifty_idle_connections_do_not_shut_out_a_request():
    """With places for 40, long before the time limit."""
    with serving(request_seconds=60, connections=40) as port, connected(port, 50) as idle:
        for connection in idle[::2]:
            with contextlib.suppress(OSError):  # the oldest have had to leave
                connection.sendall(REQUEST)
        assert [status(port) for _ in range(5)] == [200] * 5
        idle[-1].sendall(REQUEST + b"\r\n")  # the newest are still there
        assert idle[-1].recv(1000).startswith(b"HTTP/1.1 200")


def received_up_to(connection, end):
    """Whether what arrives, in however many pieces, comes to end with `end`."""
    received = b""
    while not received.endswith(end) and (piece := connection.recv(1000)):
        received += piece
    return received.endswith(end)


def test_connections_that_are_being_answered_are_not_hung_up_on_for_others():
    with serving(connections=3) as port, connected(port, 2) as busy:
        for connection in busy:
            connection.sendall(b"POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n")
            assert received_up_to(connection, b"do")
        assert status(port) == 503
        for connection in busy:
            connection.sendall(b"x")
            assert received_up_to(connection, b"ne")
        assert status(port) == 200
