"""`dprag up`: one command, then the sample documents over HTTP and the official OpenAI client."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx2
from openai import OpenAI
from processes import server

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_up_answers_questions_over_the_sample_documents_and_stops_cleanly(tmp_path):
    ports = ["--port", 0, "--engine-port", 0]
    with server("up", "--vault", tmp_path / "vault", *ports, "--no-browser") as (process, url):
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert "<title>DistilledPRAG</title>" in http.get("/").text
            for file in sorted((EXAMPLES / "documents").iterdir()):
                response = http.post("/v1/documents", files={"file": (file.name, file.read_bytes())})
                assert response.status_code == 200, response.text
        answers = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        right = 0
        lines = (EXAMPLES / "questions.jsonl").read_text().splitlines()
        for record in map(json.loads, lines):
            messages = [{"role": "user", "content": record["question"]}]
            answer = answers.chat.completions.create(model="distilledprag", messages=messages)
            sent = answer.distilledprag["sent"]
            assert sent["adapter_bytes"] > 0 and "passages" in answer.distilledprag
            right += answer.choices[0].message.content.strip() == record["answer"]
        assert len(lines) == 10 and right >= 8
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
