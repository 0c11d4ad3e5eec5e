"""Open WebUI's call pattern: what its backend sends to an OpenAI connection. (The application itself is not installed.)"""

from __future__ import annotations

import json

import httpx
from calls import MESSAGES, run

TASK = '### Task:\nGenerate a concise title for the chat history.\nOutput: JSON format: { "title": "your title" }'


class Refused(Exception):
    def __init__(self, response):
        super().__init__(response.text)
        self.status_code, self.body = response.status_code, response.json().get("error")


def headers(server):
    return {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}


def post(server, **fields):
    body = {"model": server.model, "messages": MESSAGES, **fields}
    response = httpx.post(f"{server.url}/chat/completions", json=body, headers=headers(server), timeout=60)
    if response.status_code >= 400:
        raise Refused(response)
    return response


def streamed(server):
    said = post(server, stream=True, stream_options={"include_usage": True}, max_tokens=8)
    events = [line.removeprefix("data: ") for line in said.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return "".join(
        (event["choices"][0]["delta"].get("content") or "") for event in map(json.loads, events[:-1]) if event["choices"]
    )


def title(server):
    made = post(server, messages=[{"role": "user", "content": TASK}], stream=False, max_completion_tokens=40)
    return made.json()["choices"][0]["message"]["content"]


run("Open WebUI (its calls)", "pattern", {
    "list of models": lambda server: httpx.get(f"{server.url}/models", headers=headers(server)).json()["data"],
    "chat, streamed with usage": streamed,
    "title of a chat": title,
    "chat with advanced parameters": lambda server: post(
        server, stream=False, max_tokens=8, temperature=0.8, top_p=0.9, seed=1, stop=["\n"], frequency_penalty=0
    ).json()["choices"],
})  # fmt: skip
