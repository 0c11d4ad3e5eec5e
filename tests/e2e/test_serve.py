"""`dprag serve`: one command, then the sample documents over HTTP and the official OpenAI client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI
from prepared import prepared
from processes import server

from distilledprag.base.default import default_base

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_serve_answers_questions_over_the_sample_documents_and_stops_cleanly(tmp_path):
    base = prepared(tmp_path)
    ports = ["--port", 0, "--engine-port", 0]
    with server("serve", "--store", tmp_path / "store", *ports, "--no-browser", "--base", base) as (process, url):
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert "<title>DistilledPRAG</title>" in http.get("/").text
            for file in sorted((EXAMPLES / "documents").iterdir()):
                response = http.post("/v1/documents", files={"file": (file.name, file.read_bytes())})
                assert response.status_code == 200, response.text
        answers = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        for record in map(json.loads, (EXAMPLES / "questions.jsonl").read_text().splitlines()[:3]):
            messages = [{"role": "user", "content": record["question"]}]
            answer = answers.chat.completions.create(model="distilledprag", messages=messages)
            sent = answer.distilledprag["sent"]
            assert sent["adapter_bytes"] > 0 and sent["adapter"]["rows"] == sent["masked_tokens"] > 0
            assert answer.choices[0].message.content and answer.distilledprag["passages"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def servers_of(pid):
    """The processes that `dprag serve` started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


GOLDEN = {
    "What is Maria Lindgren's salary?": "41,250 euros",
    "Which invoice was paid on 3 May?": "KX-20417-B",
}
TEXTS = [
    "Maria Lindgren starts on 1 March 2026 as a nurse. Her salary is 41,250 euros a year. She reports to Dr. Osei.",
    "The invoice KX-20417-B of Halden Mills was paid on 3 May.",
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_default_base_answers_with_its_encoder_alone_on_the_trusted_side(tmp_path):
    """The real SmolLM2: the engine has all of it, the gateway the embeddings and the layers up to that of the states."""
    default_base()  # prepares base and encoder where they are not there yet
    options = ["--store", tmp_path / "store", "--port", 0, "--engine-port", 0, "--no-browser", "--rows", 0.9]
    with server("serve", *options) as (process, url), httpx2.Client(base_url=url, timeout=120, trust_env=False) as http:
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in servers_of(process.pid)]
        gateway = next(command for command in commands if "gateway" in command)
        encoder = Path(gateway[gateway.index("--base") + 1])
        assert json.loads((encoder / "config.json").read_text())["num_hidden_layers"] < 30 and "--rows" in gateway
        for number, text in enumerate(TEXTS):
            assert http.post("/v1/documents", json={"name": f"{number}.txt", "text": text}).status_code == 200
        for question, wanted in GOLDEN.items():
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}]}
            answer = http.post("/v1/chat/completions", json=body).json()
            assert wanted in answer["choices"][0]["message"]["content"]


@pytest.fixture
def signals_are_heard():
    """A shell starts background jobs with SIGINT ignored, and what they start inherits that."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_are_heard")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_both_servers_end_with_it_however_it_ends_and_no_key_is_left(tmp_path, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = ["--store", tmp_path / "store", "--port", 0, "--engine-port", 0, "--no-browser"]
    options += ["--base", prepared(tmp_path)]
    with server("serve", *options, TMPDIR=str(temporary)) as (process, _):
        servers = servers_of(process.pid)
        assert len(servers) == 2 and all(map(is_running, servers))
        assert not list(temporary.rglob("engine-key"))
        process.send_signal(number)
        assert process.wait(60) == (-number if number == signal.SIGKILL else 0)
        for _ in range(300):
            if not any(map(is_running, servers)):
                break
            time.sleep(0.1)
        left = [pid for pid in servers if is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
