"""The gateway towards its clients: documents over HTTP, keys, foreign names and pages, limits, and errors without content."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from gateway_serving import DOCUMENTS
from starlette.requests import Request

from distilledprag import gateway as room
from distilledprag.gateway.application import Options
from distilledprag.gateway.chat import MAX_CHAT
from distilledprag.http.bodies import BodyReader
from distilledprag.http.errors import BusyError

KEY = "a-key-of-more-than-16-characters"
PAGE = Path(room.__file__).parent / "page"


def test_documents_are_added_listed_read_and_deleted(stage):
    gateway = stage()
    http = gateway.client
    ids = gateway.add()
    uploaded = http.post("/v1/documents", files={"file": ("notes.md", b"# Bees\n\nBoris keeps bees.", "text/markdown")}).json()
    assert set(uploaded) >= {"id", "passages"} and uploaded["notes"] == []
    several = [("file", ("one.txt", b"One text.")), ("file", ("two.txt", b"Two texts."))]
    more = http.post("/v1/documents", files=several, data={"collection": "other"}).json()
    assert len(more["ids"]) == 2 and more["id"] == more["ids"][0]
    listed = http.get("/v1/documents", params={"limit": 2}).json()
    assert listed["total"] == 6 and len(listed["data"]) == 2
    assert {d["name"] for d in http.get("/v1/documents?collection=other").json()["data"]} == {"one.txt", "two.txt"}
    assert http.get(f"/v1/documents/{uploaded['id']}").json()["text"] == [{"title": "Bees", "text": "Boris keeps bees."}]
    assert http.delete(f"/v1/documents/{ids[0]}").json() == {"id": ids[0], "deleted": True}
    assert http.get(f"/v1/documents/{ids[0]}").status_code == http.delete(f"/v1/documents/{ids[0]}").status_code == 404
    assert http.get("/v1/collections").json()["data"] == [
        {"name": "default", "documents": 3},
        {"name": "other", "documents": 2},
    ]


def test_the_same_file_uploaded_four_times_is_one_document_and_near_copies_are_told(stage):
    http = stage().client
    text = "The harbour of Oakport was built in 1874. " + " ".join(f"Rule {n} is kept in room {2 * n + 50}." for n in range(40))
    made = [http.post("/v1/documents", files={"file": (f"{n % 2}.txt", text.encode())}).json() for n in range(4)]
    assert len({one["id"] for one in made}) == 1 and made[0]["notes"] == []
    assert all("0.txt" in note and "kept once" in note for one in made[1:] for note in one["notes"]) and made[3]["notes"]
    near = http.post("/v1/documents", json={"name": "near.txt", "text": text.replace("harbour", "port")}).json()
    listed = {document["id"]: document for document in http.get("/v1/documents").json()["data"]}
    assert len(listed) == 2 and listed[made[0]["id"]]["copies"] == ["1.txt"] and not listed[made[0]["id"]]["nearly_repeats"]
    like = listed[near["id"]]["nearly_repeats"]
    assert like["id"] == made[0]["id"] and like["name"] == "0.txt" and 0.8 <= like["similarity"] < 1
    assert http.get(f"/v1/documents/{near['id']}").json()["nearly_repeats"] == like
    asked = {"model": "distilledprag", "messages": [{"role": "user", "content": "When was Oakport built?"}], "max_tokens": 2}
    details = http.post("/v1/chat/completions", json=asked).json()["distilledprag"]
    assert sum("Oakport" in passage["text"] for passage in details["passages"]) == 1
    assert any("nearly repeat" in warning for warning in details["warnings"])


def test_a_search_finds_passages_and_where_they_stand_without_asking_the_engine(stage):
    gateway = stage()
    gateway.add()
    text = "# Crew\n\nThe Copperleaf has a cook.\n\n# Route\n\nThe Copperleaf sails to Oakport in June."
    id = gateway.client.post("/v1/documents", json={"name": "route.md", "text": text, "collection": "sea"}).json()["id"]

    def search(**parameters):
        return gateway.client.get("/v1/search", params=parameters)

    found = search(q="when does it sail to Oakport in June", collection="sea").json()["data"][0]
    place = gateway.client.get(f"/v1/documents/{id}").json()["text"][found["place"]]
    assert found["document"] == id and found["source"] == "route.md" and "June" in found["text"]
    assert (found["title"], found["text"]) == (place["title"], place["text"])
    assert {one["source"] for one in search(q="Copperleaf Oakport").json()["data"]} == {"route.md", "ships.txt", "staff.txt"}
    assert len(search(q="Copperleaf Oakport", limit=1).json()["data"]) == 1
    assert search(q="Copperleaf", collection="empty").json()["data"] == search(q="!?").json()["data"] == []
    assert search(q="  ").status_code == search(q="x", collection="../up").status_code == search().status_code == 400
    assert gateway.engine.received == []
    answered = gateway.ask("When does the Copperleaf sail in June?", distilledprag={"collection": "sea"}, max_tokens=2).json()
    assert answered["distilledprag"]["passages"][0].items() >= {"document": id, "place": found["place"]}.items()


def test_of_an_upload_the_files_that_can_be_read_are_stored_and_the_others_named(stage):
    gateway = stage()
    files = [("file", ("good.txt", b"Good text.")), ("file", ("bad.pdf", b"no pdf")), ("file", ("fine.txt", b"Fine text."))]
    response = gateway.client.post("/v1/documents", files=files)
    message = response.json()["error"]["message"]
    assert response.status_code == 400 and "bad.pdf" in message and "the other 2 of this upload are stored" in message
    listed = gateway.client.get("/v1/documents").json()
    assert listed["total"] == 2 and all(document["notes"] == [] for document in listed["data"])
    assert all(file.name.startswith("store.sqlite") for file in gateway.store.reading_folder.iterdir())


def test_what_could_not_be_read_of_an_upload_stands_in_its_answer_and_in_the_list(stage, half_scanned):
    http = stage().client
    answer = http.post("/v1/documents", files={"file": ("scan.pdf", half_scanned.read_bytes())}).json()
    assert answer["notes"] == ["scan.pdf: pages 2 and 3 hold no text (scanned?)"]
    assert http.get("/v1/documents").json()["data"][0]["notes"] == ["pages 2 and 3 hold no text (scanned?)"]
    assert "item.notes" in (PAGE / "documents.js").read_text() and "answer.notes" in (PAGE / "uploads.js").read_text()


@pytest.mark.parametrize("request_, message", [
    ({"json": {"name": "a.txt"}}, "text"),
    ({"json": {"name": "", "text": "x"}}, "no name"),
    ({"json": {"name": "a.txt", "text": "   "}}, "empty"),
    ({"json": {"name": "a.txt", "text": "x", "collection": "../up"}}, "collection"),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, "JSON"),
    ({"content": b"Oakport", "headers": {"content-type": "text/plain"}}, "application/json"),
    ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, "multipart"),
    ({"files": {"wrong": ("a.txt", b"x")}}, "field `file`"),
    ({"files": {"file": ("a.exe", b"MZ")}}, "not supported"),
])  # fmt: skip
def test_a_document_that_cannot_be_used_is_a_clear_400(stage, request_, message):
    response = stage().client.post("/v1/documents", **request_)
    assert response.status_code == 400 and message in response.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused_even_when_its_length_is_not_announced(stage):
    gateway = stage(Options(max_upload=1000))
    assert gateway.client.post("/v1/documents", json={"name": "a.txt", "text": "word " * 300}).status_code == 413
    chunks = (b'{"name": "a.txt", "text": "' if number == 0 else b"word " * 100 for number in range(10))
    response = gateway.client.post("/v1/documents", content=chunks, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert gateway.client.post("/v1/documents", files={"file": ("a.txt", b"word " * 300)}).status_code == 413


def test_a_conversation_over_the_limit_is_refused_in_openais_shape(stage):
    gateway = stage()
    long = "word " * (MAX_CHAT // 5 + 10)
    response = gateway.client.post("/v1/chat/completions", json={"model": "x", "messages": [{"role": "user", "content": long}]})
    assert response.status_code == 413 and response.json()["error"]["code"] == "too_large"
    chunks = (b'{"model": "' if number == 0 else b"x" * 2**16 for number in range(MAX_CHAT // 2**16 + 3))
    response = gateway.client.post("/v1/chat/completions", content=chunks, headers={"content-type": "application/json"})
    assert response.status_code == 413


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/documents"])
def test_a_body_that_does_not_arrive_is_refused_when_its_time_is_over(stage, path):
    gateway = stage(Options(body_seconds=0.2))
    url = gateway.client.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as slow:
        head = f"POST {path} HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{"
        slow.sendall(head.encode())
        answer = b""
        while b'"slow_body"' not in answer and (piece := slow.recv(65536)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"slow_body"' in answer


def test_bodies_are_bounded_together_and_free_their_room_when_they_are_done():

    def request(size):
        async def receive():
            return {"type": "http.request", "body": b"x" * size, "more_body": False}

        return Request({"type": "http", "method": "POST", "headers": [], "state": {"tenant": "a"}}, receive)

    async def both():
        bodies = BodyReader(memory=100)
        async with bodies.held(request(60), 100):
            with pytest.raises(BusyError):
                async with bodies.held(request(60), 100):
                    pass
        async with bodies.held(request(60), 100) as body:
            assert len(body) == 60

    asyncio.run(both())


def test_words_of_a_deleted_document_are_in_no_file_of_the_store(stage):
    gateway = stage()
    ids = gateway.add()
    folder = gateway.store.reading_folder

    def holds(word):
        return any(word in file.read_bytes().lower() for file in folder.iterdir())

    assert holds(b"tovberg") and holds(b"copperleaf")
    assert gateway.client.delete(f"/v1/documents/{ids[0]}").status_code == 200
    assert not holds(b"tovberg") and not holds(b"oakport") and holds(b"copperleaf")


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """The test's folder on a disk of 3 MB; where none can be mounted, writes of a file's bytes fail as they would there."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", tmp_path], capture_output=True).returncode == 0
    if not mounted:
        real = Path.write_bytes

        def write_bytes(path, data):
            if len(data) > 3 * 2**20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, data)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
    yield
    if mounted:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("way", ["json", "files"])
def test_an_upload_for_which_the_disk_has_no_room_is_a_507_and_costs_nothing(small_disk, stage, way):
    gateway = stage()
    ids = gateway.add()
    text = "Boris keeps bees. " * 200_000
    body = {"json": {"name": "a.txt", "text": text}} if way == "json" else {"files": {"file": ("a.txt", text.encode())}}
    response = gateway.client.post("/v1/documents", **body)
    assert response.status_code == 507 and response.json()["error"]["code"] == "disk_full"
    assert {document["id"] for document in gateway.client.get("/v1/documents").json()["data"]} == set(ids)
    assert not list(gateway.store.reading_folder.glob("reading-*"))
    assert gateway.ask("Where does Anna Tovberg live?", max_tokens=2).status_code == 200


def test_with_keys_everything_below_v1_needs_one(stage):
    gateway = stage(keys=[KEY])
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/documents"), ("POST", "/v1/chat/completions"), ("GET", "/v1/none")]:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}, {"authorization": f"Basic {KEY}"}):
            response = gateway.client.request(method, path, headers=header)
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert gateway.client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert gateway.client.get("/health").json()["key_required"] is True and gateway.client.get("/").status_code == 200


def test_foreign_host_names_and_pages_of_other_origins_are_refused(stage):
    gateway = stage(allowed_hosts=["gateway.internal"])
    port = gateway.client.base_url.port

    def status(**headers):
        return gateway.client.get("/v1/documents", headers={k.replace("_", "-"): v for k, v in headers.items()}).status_code

    assert status(host="rebound.example") == status(host=f"127.0.0.1.example:{port}") == status(host="") == 403
    assert status(host=f"localhost:{port}") == status(host="gateway.internal") == 200
    assert status(origin="https://evil.example") == status(origin="null") == status(sec_fetch_site="cross-site") == 403
    assert status(origin=f"http://127.0.0.1:{port}", sec_fetch_site="same-origin") == 200


def test_no_answer_allows_other_origins(stage):
    gateway = stage()
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for response in (gateway.client.options("/v1/documents", headers=headers), gateway.client.get("/health")):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_every_answer_has_the_security_headers(stage):
    gateway = stage(keys=[KEY])
    for path in ("/", "/page.js", "/page.css", "/health", "/v1/models", "/none"):
        headers = gateway.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline():
    html = (PAGE / "index.html").read_text()
    for file in PAGE.iterdir():
        assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", file.read_text().replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    scripts = "".join(file.read_text() for file in PAGE.glob("*.js"))
    assert "textContent" in scripts and not re.search(r"innerHTML|eval\(|\.style\.", scripts)


def test_health_tells_whether_the_engine_answers(stage):
    gateway = stage()
    gateway.add()
    record = gateway.client.get("/health").json()
    assert record["status"] == "ok" and record["engine"] == "ready" and record["documents"] == len(DOCUMENTS)
    assert {".txt", ".pdf"} <= set(record["formats"])


class Log(logging.Handler):
    """Records, and an event when there is one."""

    def __init__(self):
        super().__init__()
        self.texts, self.written = [], threading.Event()

    def emit(self, record):
        self.texts.append(self.format(record))
        self.written.set()


@pytest.fixture
def log():
    handler = Log()
    logging.getLogger("distilledprag.gateway").addHandler(handler)
    yield handler
    logging.getLogger("distilledprag.gateway").removeHandler(handler)


def test_a_fault_of_the_program_is_a_500_that_tells_and_logs_no_content(stage, monkeypatch, log):
    gateway = stage()

    def fail(*arguments, **options):
        raise RuntimeError("Oakport is in this message")

    monkeypatch.setattr(gateway.store, "listed", fail)
    response = gateway.client.get("/v1/documents")
    assert response.status_code == 500 and response.json()["error"]["code"] == "internal_error" and "Oakport" not in response.text
    assert log.written.wait(10)
    assert "RuntimeError" in log.texts[0] and response.headers["x-request-id"] in log.texts[0]
    assert not any("Oakport" in text for text in log.texts)


def test_unknown_addresses_are_a_404_in_openais_shape(stage):
    response = stage().client.get("/v1/embeddings")
    assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
