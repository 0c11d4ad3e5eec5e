"""`dprag gateway` as a process: ready when it says so, killed without losing a document, stopped cleanly, strict."""

from __future__ import annotations

import contextlib
import signal
import sys

import httpx2
import pytest
from gateway_serving import DOCUMENTS, TinyEngine
from prepared import prepared
from processes import server
from served import served

QUESTION = "Where does Anna Tovberg live?"


@pytest.fixture(scope="module")
def engine(prag, engine_base):
    return TinyEngine(engine_base, prag.prompts.end_of_turn_id)


@pytest.fixture(scope="module")
def prepared_base_folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def engine_url(engine):
    with served(engine.application()) as address:
        yield address


@contextlib.contextmanager
def gateway(engine, engine_url, store, base, *options):
    """A running `dprag gateway` and a client for it."""
    arguments = ["--port", 0, "--engine", engine_url, "--store", store, "--base", base, *options]
    with (
        server("gateway", *arguments, DPRAG_ENGINE_API_KEY=engine.key) as (process, url),
        httpx2.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        assert url.startswith("http://127.0.0.1:")
        yield process, client


def test_a_killed_gateway_has_every_acknowledged_document_and_a_stopped_one_ends_well(
    engine, engine_url, tmp_path, prepared_base_folder
):
    arguments = (engine, engine_url, tmp_path / "store", prepared_base_folder)
    with gateway(*arguments) as (process, client):
        ids = [client.post("/v1/documents", json={"name": n, "text": t}).json()["id"] for n, t in DOCUMENTS.items()]
        process.send_signal(signal.SIGKILL)
        process.wait()
    with gateway(*arguments) as (process, client):
        assert {document["id"] for document in client.get("/v1/documents").json()["data"]} == set(ids)
        body = {"model": "distilledprag", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=body).json()["distilledprag"]["passages"][0]["source"] == "staff.txt"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not engine.adapters  # told to delete what it had been sent


@pytest.mark.parametrize("options, message", [
    (["--host", "0.0.0.0"], "--api-key-file"),
    (["--api-key-file", "none"], "cannot be read"),
    (["--rows", "0"], "--rows is 0"),
    (["--quotes", "maybe"], "refuse, warn, allow"),
    (["--engine", "ftp://engine"], "address of an engine"),
    (["--engine-ca", "none"], "holds no certificates"),
])  # fmt: skip
def test_wrong_options_are_one_clear_message_before_what_takes_seconds_to_import(dprag, tmp_path, monkeypatch, options, message):
    for heavy in ("gateway.application", "generators.kept_states", "pipeline"):  # they import PyTorch
        monkeypatch.setitem(sys.modules, f"distilledprag.{heavy}", None)  # importing it would fail
    arguments = {"--engine": "http://127.0.0.1:1", "--store": tmp_path / "store", options[0]: options[1]}
    code, _, err = dprag("gateway", *[part for pair in arguments.items() for part in pair])
    assert code == 1 and message in " ".join(err.split()) and "Traceback" not in err


def test_a_port_in_use_is_one_clear_message(dprag, engine_url, tmp_path):
    port = engine_url.rpartition(":")[2]
    code, _, err = dprag("gateway", "--engine", engine_url, "--store", tmp_path / "store", "--port", port)
    assert code == 1 and "cannot listen" in err
