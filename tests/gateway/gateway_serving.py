"""A small engine for the gateway's tests that runs the tiny base with injected adapters."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from distilledprag.base.llm import BaseLLM
from distilledprag.decoding import greedy_ids
from distilledprag.lora.states import StateAdapter

DOCUMENTS = {
    "staff.txt": "Anna Tovberg lives in Oakport. She earns $46,000 a year and joined in 2019.",
    "companies.txt": "Velkor Foods is based in Millport. Its chief executive is Marten Hale.",
    "ships.txt": "The vessel Copperleaf was built in 1987 by Dunmouth Yards and carries 412 passengers.",
}


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class TinyEngine:
    """What `dprag engine` promises over HTTP, as far as the gateway uses it. Records all that it receives."""

    base: BaseLLM
    stop_id: int
    key: str = "engine-key-for-tests"
    lifetime: float | None = 3600.0
    adapters: dict[str, StateAdapter] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    break_stream: bool = False
    break_at_once: bool = False
    refuse_with: tuple[int, dict[str, str]] | None = None
    refusal: dict[str, object] = field(default_factory=dict)
    quota: int | None = None

    def uploads(self) -> list[Received]:
        return [request for request in self.received if (request.method, request.path) == ("POST", "/v1/adapters")]

    def prompts(self) -> list[list[int]]:
        return [json.loads(request.body)["prompt"] for request in self.received if request.path == "/v1/completions"]

    def application(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def record(request: Request, forward):
            body = await request.body()
            self.received.append(Received(request.method, request.url.path, dict(request.headers), body))
            if request.url.path != "/health" and request.headers.get("authorization") != f"Bearer {self.key}":
                return _error(401, "wrong key")
            if self.refuse_with is not None and request.url.path == "/v1/completions":
                status, headers = self.refuse_with
                return _error(status, "not now", headers, **self.refusal)
            return await forward(request)

        @app.get("/health")
        async def health():
            return {"status": "ok"}

        @app.get("/v1/models")
        async def models():
            return {"object": "list", "data": [{"id": self.base.id, "object": "model"}]}

        @app.post("/v1/adapters")
        async def upload(request: Request):
            if self.quota is not None and len(self.adapters) >= self.quota:
                return _error(429, "as many adapters as this key may have", {"retry-after": "3600"}, code="adapter_quota")
            id = f"adapter-{len(self.received):06d}"
            self.adapters[id] = StateAdapter.from_bytes(await request.body())
            return {"id": id, "expires_at": None if self.lifetime is None else time.time() + self.lifetime}

        @app.get("/v1/adapters")
        async def listed():
            return {"object": "list", "data": [{"id": id} for id in self.adapters]}

        @app.delete("/v1/adapters/{id}")
        async def delete(id: str):
            return {"deleted": self.adapters.pop(id, None) is not None}

        @app.post("/v1/completions")
        async def complete(request: Request):
            fields = await request.json()
            name, _, id = fields["model"].partition(":")
            if name != self.base.id or (id and id not in self.adapters):
                return _error(404, "no such model")
            states = [self.adapters[id]] if id else None
            ids = greedy_ids(self.base, [fields["prompt"]], None, self.stop_id, fields["max_tokens"], states)[0]
            if not fields.get("stream"):
                choice = {"index": 0, "text": self.base.tokenizer.decode(ids), "finish_reason": "stop"}
                return {"object": "text_completion", "choices": [choice]}
            return StreamingResponse(self._events(ids), media_type="text/event-stream")

        return app

    async def _events(self, ids: list[int]):
        written = ""
        if self.break_at_once:
            return
        for count in range(1, len(ids) + 1):
            text = self.base.tokenizer.decode(ids[:count])
            choice = {"index": 0, "text": text[len(written) :], "finish_reason": None}
            written = text
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            if self.break_stream:
                return
        yield f"data: {json.dumps({'choices': [{'index': 0, 'text': '', 'finish_reason': 'stop'}]})}\n\n"
        yield "data: [DONE]\n\n"


def _error(status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None, param=None) -> JSONResponse:
    record = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
    return JSONResponse({"error": record}, status, headers=headers)
