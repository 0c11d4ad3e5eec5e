"""An engine behind TLS: its certificate is checked, an own one can be named, and a way that others can read is noticed."""

from __future__ import annotations

import asyncio
import subprocess
import threading

import pytest
from fastapi import FastAPI

from distilledprag.errors import ConfigError
from distilledprag.gateway.engine_client import EngineClient, EngineError
from distilledprag.http.listening import Server, Tls, address_of, bind, configuration


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-keyout", key, "-out", pem, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *options], capture_output=True)
    assert made.returncode == 0, made.stderr
    return Tls(pem, key)


@pytest.fixture(scope="module")
def address(certificate):
    app = FastAPI()

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "base"}]}

    listener, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(configuration(app, certificate), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield address_of(listener, "https")
    server.should_exit = True
    thread.join(20)


def base_name(address, authority=None):
    async def ask():
        client = EngineClient(address, "key", authority)
        try:
            return await client.base_name("base")
        finally:
            await client.aclose()

    return asyncio.run(ask())


def test_an_own_certificate_is_trusted_when_it_is_named_and_only_then(address, certificate):
    assert base_name(address, certificate.certificate) == "base"
    with pytest.raises(EngineError, match=r"not trusted here.*--engine-ca"):
        base_name(address)


def test_a_file_without_certificates_is_a_clear_error(address, tmp_path):
    (tmp_path / "empty.pem").write_text("no certificate")
    for file in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="PEM"):
            EngineClient(address, None, file)


@pytest.mark.parametrize("url, readable", [
    ("http://127.0.0.1:8000", False), ("http://localhost:8000", False), ("http://[::1]:8000", False),
    ("http://10.0.0.7:8000", True), ("http://engine.example", True), ("https://engine.example", False),
])  # fmt: skip
def test_a_way_that_others_can_read_is_noticed(url, readable):
    assert EngineClient(url).is_readable_on_the_way is readable
