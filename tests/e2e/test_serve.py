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
from processes import server

EXAMPLES = Path(__file__).parents[2] / "examples"


def servers_of(pid):
    """The processes that `dprag serve` started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_serve_answers_over_the_sample_documents_with_the_encoder_alone_on_the_trusted_side_and_stops_cleanly(tmp_path):
    """The real SmolLM2: the engine has all of it, the gateway the embeddings and the layers up to that of the states."""
    options = ["--store", tmp_path / "store", "--port", 0, "--engine-port", 0, "--no-browser", "--rows", 0.9]
    with server("serve", *options) as (process, url):
        servers = servers_of(process.pid)
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in servers]
        gateway = next(command for command in commands if "gateway" in command)
        encoder = Path(gateway[gateway.index("--base") + 1])
        assert json.loads((encoder / "config.json").read_text())["num_hidden_layers"] < 30 and "--rows" in gateway
        with httpx2.Client(base_url=url, timeout=120, trust_env=False) as http:
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
            assert record["answer"] in answer.choices[0].message.content and answer.distilledprag["passages"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and not any(map(is_running, servers))


STAND_IN = """#!{python}
import signal, sys
print(sys.argv[3], "on http://127.0.0.1:1", flush=True)
signal.pause()
"""


@pytest.fixture
def stand_in(tmp_path):
    """What `dprag serve` starts in place of Python: a server that says that it listens, and waits."""
    file = tmp_path / "stand-in"
    file.write_text(STAND_IN.format(python=sys.executable))
    file.chmod(0o755)
    return file


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_both_servers_end_with_it_however_it_ends_and_no_key_is_left(tmp_path, tiny_prepared_folder, stand_in, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = ["--store", tmp_path / "store", "--port", 0, "--engine-port", 0, "--no-browser", "--base", tiny_prepared_folder]
    with server("serve", *options, executable=stand_in, TMPDIR=str(temporary)) as (process, _):
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
