"""An application that speaks the routes of vLLM that the engine uses, and dies of what vLLM dies of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


class VllmDouble:
    """Writes the prompt's last tokens, first the last one, as many as the adapter's rank. Held back while `held` is not set."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {}  # as its API knows them
        self.numbers: dict[str, Path] = {}  # whose numbers it has in memory
        self.names: list[str] = []  # of every load, in order
        self.asked: list[dict[str, Any]] = []
        self.left = 0  # requests whose client left
        self.down = False
        self.held = asyncio.Event()
        self.held.set()
        self.app = FastAPI()
        self.app.get("/health")(self.health)
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/unload_lora_adapter")(self.unload)
        self.app.post("/v1/completions")(self.complete)

    async def health(self) -> Response:
        return Response(status_code=503 if self.down else 200)

    async def models(self) -> dict[str, Any]:
        return {"data": [{"id": "base", "parent": None, "max_model_len": 300}]}

    async def load(self, request: Request) -> Response:
        body = await request.json()
        name, folder = body["lora_name"], Path(body["lora_path"])
        if self.down or (name in self.loaded and not body["load_inplace"]):
            return Response(status_code=500 if self.down else 400)
        assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        self.loaded[name] = self.numbers[name] = folder
        if not body["load_inplace"]:
            self.names.append(name)
        return Response()

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        return Response(status_code=200 if self.loaded.pop(name, None) else 404)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.down:
            return JSONResponse({"error": {"code": 500}}, 500)
        if body["model"] not in self.loaded:
            return Response(status_code=404)
        rank = json.loads((self.loaded[body["model"]] / "adapter_config.json").read_text())["r"]  # it dies without the file
        ids = body["prompt"][::-1][: min(rank, body["max_tokens"])]

        async def events():
            try:
                for place, id in enumerate(ids):
                    await self.held.wait()
                    choice = {"token_ids": [id], "finish_reason": "length" if place == len(ids) - 1 else None}
                    if "logprobs" in body:
                        top = {f"token_id:{id}": -0.5, "token_id:7": -1.0, "token_id:8": -2.0}
                        choice["logprobs"] = {"token_logprobs": [-0.5], "top_logprobs": [top]}
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                yield "data: [DONE]\n\n"
            except asyncio.CancelledError:
                self.left += 1
                raise

        return StreamingResponse(events(), media_type="text/event-stream")
