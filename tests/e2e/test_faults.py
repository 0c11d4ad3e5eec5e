"""What goes wrong in operation, with real processes: each fault leaves a clear state, and no document is lost."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx2
import pytest
from prepared import prepared
from processes import ENGINE_KEY, engine, gateway

DOCUMENTS = {
    "staff.txt": "Ingrid Lindovic works for Velkor Freight. Ingrid Lindovic lives in Dunmouth.",
    "harbour.txt": "Clara Marsen works for Nexmere Software. Clara Marsen lives in Ashhaven.",
}
QUESTION = "In which city does Ingrid Lindovic live?"
AUTHORIZED = {"authorization": f"Bearer {ENGINE_KEY}"}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared"))


def chat(http, question=QUESTION, **fields):
    body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], **fields}
    return http.post("/v1/chat/completions", json=body)


def text(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def client(url, **options):
    return httpx2.Client(base_url=url, timeout=60, trust_env=False, **options)


def add(http):
    return {http.post("/v1/documents", json={"name": name, "text": text}).json()["id"] for name, text in DOCUMENTS.items()}


def listed(http):
    return {document["id"] for document in http.get("/v1/documents").json()["data"]}


def keep_busy(engine_url, requests=24):
    """Long answers beside the one that matters, which is slow then."""
    long = {"model": "base", "prompt": "Where", "max_tokens": 900, "temperature": 2.0}

    def ask():
        with contextlib.suppress(httpx2.HTTPError), client(engine_url, headers=AUTHORIZED) as http:
            http.post("/v1/completions", json=long)

    for _ in range(requests):
        threading.Thread(target=ask, daemon=True).start()
    with client(engine_url) as http:
        time.sleep(1.0)
        assert http.get("/health").status_code == 200


def test_one_of_two_engines_killed_under_load_costs_no_answer(tmp_path, base_folder):
    """Eight users over 12 documents; they hear the same word for word, and the engine that is left gets the adapters."""
    names = [
        f"{first} {last}"
        for first in ("Ingrid", "Clara", "Marten", "Anna")
        for last in ("Lind", "Mars", "Hale", "Tov", "Berg", "Oke")
    ]
    documents = {f"{name}.txt": f"{name} works for Velkor Freight. {name} lives in Dunmouth." for name in names}
    with (
        engine(tmp_path, base_folder) as (process, first),
        engine(tmp_path, base_folder) as (_, second),
        gateway(tmp_path, first, base_folder, "--engine", second) as (_, url),
        client(url) as http,
    ):
        for name, content in documents.items():
            http.post("/v1/documents", json={"name": name, "text": content})

        def ask(name):
            answer = chat(http, f"In which city does {name} live?", max_tokens=16, distilledprag={"top_k": 1})
            return text(answer), answer.json()["distilledprag"]["sent"]["adapter_uploaded"]

        with ThreadPoolExecutor(8) as users:
            before = list(users.map(ask, names))
            asked = [users.submit(ask, name) for name in names * 3]
            next(iter(as_completed(asked[:16])))
            process.kill()
            during = [answer.result() for answer in asked]
        assert [told for told, _ in during] == [told for told, _ in before] * 3
        assert 0 < sum(uploaded for _, uploaded in during) < len(during)  # those of the engine that is gone moved
        assert http.get("/health").json()["engines"] == {"ready": 1, "all": 2}


def test_an_engine_killed_in_the_middle_of_an_answer_and_a_new_one_at_its_address(tmp_path, base_folder):
    with (
        engine(tmp_path, base_folder) as (process, engine_url),
        gateway(tmp_path, engine_url, base_folder) as (_, url),
        client(url) as http,
    ):
        ids = add(http)
        before = text(chat(http))
        body = {"model": "distilledprag", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        keep_busy(engine_url)
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.kill()
            rest = [line.removeprefix("data: ") for line in lines if line]
        assert "[DONE]" not in rest and "ask again" in json.loads(rest[-1])["error"]["message"]
        failed = chat(http)
        assert failed.status_code == 502 and "cannot be reached" in failed.json()["error"]["message"]
        assert http.get("/health").json()["engine"] == "unreachable" and listed(http) == ids
        with engine(
            tmp_path, base_folder, port=engine_url.rpartition(":")[2]
        ):  # its adapters are gone: the gateway sends them again
            assert text(chat(http)) == before
        assert listed(http) == ids


def test_an_engine_told_to_stop_finishes_what_it_writes(tmp_path, base_folder):
    with engine(tmp_path, base_folder) as (process, url), client(url, headers=AUTHORIZED) as http:
        body = {"model": "base", "prompt": "Where", "max_tokens": 120, "temperature": 1.5, "seed": 1, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(30) == 0
        with pytest.raises(httpx2.ConnectError):
            http.get("/health")


def test_a_client_that_reads_slowly_keeps_nobody_waiting(tmp_path, base_folder):
    with engine(tmp_path, base_folder) as (_, url), client(url, headers=AUTHORIZED) as http:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"model": "base", "prompt": "Where", "max_tokens": 900, "temperature": 1.5, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ENGINE_KEY}\r\ncontent-length: {len(body)}"
        slow = socket.create_connection((host, int(port)))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(head.encode() + b"\r\n\r\n" + body)
        for _ in range(5):
            answer = http.post("/v1/completions", json={"model": "base", "prompt": "Where", "max_tokens": 4}, timeout=20)
            assert answer.status_code == 200
        slow.close()
        assert http.get("/health").status_code == 200


def test_a_thousand_idle_connections_cost_little_and_keep_nobody_out(tmp_path, base_folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4000:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    idle = []
    try:
        with (
            engine(tmp_path, base_folder) as (process, engine_url),
            gateway(tmp_path, engine_url, base_folder) as (_, url),
            client(url) as http,
        ):
            ids = add(http)
            before = memory_of(process.pid)
            for address in (engine_url, url):
                host, port = address.removeprefix("http://").split(":")
                idle += [socket.create_connection((host, int(port)), timeout=10) for _ in range(1000)]
            for connection in idle[::2]:
                connection.sendall(b"GET /health HTT")  # and never the rest
            assert text(chat(http)) and listed(http) == ids
            assert memory_of(process.pid) - before < 200 * 2**20
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_gateway_killed_while_documents_come_in_has_all_that_it_acknowledged(tmp_path, base_folder):
    with engine(tmp_path, base_folder) as (_, engine_url):
        acknowledged = []
        for round in range(2):
            with (
                gateway(tmp_path, engine_url, base_folder) as (process, url),
                client(url) as http,
                contextlib.suppress(httpx2.HTTPError),
            ):
                for number in range(10_000):
                    if number == 8:
                        threading.Timer(0.02, process.kill).start()
                    made = http.post("/v1/documents", json={"name": f"{round}-{number}", "text": f"Anna {round} {number}."})
                    acknowledged.append(made.json()["id"])
        assert len(acknowledged) > 10
        with gateway(tmp_path, engine_url, base_folder) as (_, url), client(url) as http:
            stored = [http.get(f"/v1/documents/{id}") for id in acknowledged]
            assert all(response.status_code == 200 and "Anna" in response.text for response in stored)
            add(http)
            assert text(chat(http))


def test_tls_serves_only_those_who_trust_the_certificate(tmp_path, base_folder):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    options = ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *options], capture_output=True)
    assert made.returncode == 0, made.stderr
    with engine(tmp_path, base_folder, "--tls-certificate", certificate, "--tls-key", key) as (_, url):
        assert url.startswith("https://")
        import ssl

        context = ssl.create_default_context(cafile=certificate)
        with client(url, headers=AUTHORIZED, verify=context) as http:
            assert http.get("/v1/models").json()["data"][0]["id"] == "base"
        with pytest.raises(httpx2.ConnectError), client(url) as http:
            http.get("/health")


def memory_of(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_the_engines_memory_is_bounded_while_adapters_come_and_go(tmp_path, base_folder):
    from distilledprag.pipeline import DistilledPRAG

    data = DistilledPRAG.from_pretrained(base_folder).encode_states([" ".join([DOCUMENTS["staff.txt"]] * 20)]).to_bytes("float16")
    with engine(tmp_path, base_folder, "--adapters-per-key", 4) as (process, url), client(url, headers=AUTHORIZED) as http:

        def come_and_go(times):
            for _ in range(times):
                made = http.post("/v1/adapters", content=data)
                assert made.status_code == 201, made.text
                assert http.delete(f"/v1/adapters/{made.json()['id']}").status_code == 200

        come_and_go(10)
        before = memory_of(process.pid)
        come_and_go(60)
        time.sleep(0.2)
        assert memory_of(process.pid) - before < 16 * 2**20
