"""A real HTTP server that plays an OpenAI-compatible endpoint, writes pairs about the documents it is sent, and counts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "writer-1"
PATIENCE = 600  # seconds; only a failing test waits this long
PROMPT_TOKENS, COMPLETION_TOKENS = 300, 100
NAMES = "Arvo Belt Corin Dask Elm Fenn Gorse Hale Ister Jarl Kest Lome Mirren Nash Orrin Pell Quill Rusk Stane Tarn".split()


def company(index: int) -> str:
    return f"{NAMES[index % len(NAMES)]} Foods {index}"


def document(index: int) -> str:
    """A made-up passage; every number makes another one."""
    return f"{company(index)} was founded in {1900 + index} in Oakport {index} by Anna {NAMES[index % len(NAMES)]}berg for tea."


def pairs_about(texts: list[str], taken: str = "") -> list[dict[str, str]]:
    """Two pairs for one document, five for two; of all that, nothing that is taken."""
    numbers = [int(re.match(r"\w+ Foods (\d+)", text.split(": ")[-1])[1]) for text in texts]
    names = [company(number) for number in numbers]
    if len(texts) == 1:
        facts = [
            (f"When was {names[0]} founded?", str(1900 + numbers[0])),
            (f"Where was {names[0]} founded?", f"Oakport {numbers[0]}"),
        ]
    else:
        older = min(numbers)
        facts = [
            (f"Which is older, {names[0]} or {names[1]}?", company(older)),
            (f"Which is younger, {names[0]} or {names[1]}?", company(max(numbers))),
            (f"Were {names[0]} and {names[1]} founded in the same year?", "no"),
            (f"How many years lie between the founding of {names[0]} and {names[1]}?", str(abs(numbers[0] - numbers[1]))),
            (f"What do {names[0]} and {names[1]} both sell?", "tea"),
        ]
    return [{"question": q, "answer": a, "full_answer": f"{q} {a}."} for q, a in facts if q not in taken]


def documents_in(body: dict[str, Any]) -> list[str]:
    return re.findall(r"<document>\n(.*?)\n</document>", body["messages"][-1]["content"], re.DOTALL)


def written(body: dict[str, Any]) -> str:
    """What the LLM writes to a request, when nothing goes wrong."""
    asked = body["messages"][-1]["content"]
    return json.dumps({"pairs": pairs_about(documents_in(body), asked)})


@dataclass
class Answer:
    """One HTTP answer. cut: send only this many bytes of the body and close; hold: wait for this first; chunked: in chunks."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut: int | None = None
    hold: threading.Event | None = None
    chunked: bool = False
    finish: str = "stop"
    usage: bool = True

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.text or "scripted fault"}}).encode()
        message = {"role": "assistant", "content": self.text}
        reply: dict[str, Any] = {
            "id": "x", "object": "chat.completion", "created": 0, "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
        }  # fmt: skip
        if self.usage:
            reply["usage"] = {
                "prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS,
                "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
            }  # fmt: skip
        return json.dumps(reply).encode()


Script = Callable[[int, dict[str, Any]], Answer]


def write_as_asked(_: int, body: dict[str, Any]) -> Answer:
    return Answer(written(body))


class LlmServer:
    """Use as a context manager. `script(number, body)` makes each answer; `bodies`: every request; `most_at_once`: the
    highest number of requests under way together."""

    def __init__(self, script: Script = write_as_asked) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_at_once = 0
        self.lock = threading.Lock()
        self.arrived = threading.Condition(self.lock)
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                outer._handle(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> LlmServer:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def wait_for(self, requests: int) -> None:
        """Return when this many requests have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.bodies) >= requests, timeout=PATIENCE), f"{len(self.bodies)} arrived"

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self.arrived:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(http.headers.get("Authorization"))
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            self.arrived.notify_all()
        try:
            answer = self.script(number, body)
            if answer.hold is not None:
                answer.hold.wait(PATIENCE)
            with self.lock:
                self.under_way -= 1
            self._send(http, answer)
        except (BrokenPipeError, ConnectionResetError):
            http.close_connection = True

    def _send(self, http: BaseHTTPRequestHandler, answer: Answer) -> None:
        payload = answer.body()
        http.send_response(answer.status)
        http.send_header("Content-Type", "application/json")
        for name, value in answer.headers.items():
            http.send_header(name, value)
        if answer.chunked:
            http.send_header("Transfer-Encoding", "chunked")
        else:
            http.send_header("Content-Length", str(len(payload)))
        http.end_headers()
        if answer.cut is not None:
            payload = payload[: answer.cut]
            http.close_connection = True
        http.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload) if answer.chunked else payload)
        if answer.chunked and answer.cut is None:
            http.wfile.write(b"0\r\n\r\n")
