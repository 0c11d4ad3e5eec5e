"""What /openapi.json says about request bodies; the routes read these themselves, bounded in bytes and time.

Knows nothing of how requests are answered.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from distilledprag.engine.web.schemas import ChatRequest, CompletionRequest

_COMPONENTS = "#/components/schemas/"


def json_body(kind: type[CompletionRequest | ChatRequest]) -> dict[str, Any]:
    """For a route's `openapi_extra`: its body is a JSON object of this kind."""
    return _body("application/json", {"$ref": _COMPONENTS + kind.__name__})


def bytes_body() -> dict[str, Any]:
    """For a route's `openapi_extra`: its body is bytes."""
    return _body("application/octet-stream", {"type": "string", "format": "binary"})


def describe_bodies(app: FastAPI) -> None:
    """Add the kinds that `json_body` names; call it when `app` has all its routes."""
    kinds: list[Any] = [(CompletionRequest, "validation"), (ChatRequest, "validation")]
    described = models_json_schema(kinds, ref_template=_COMPONENTS + "{model}")[1]
    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(described["$defs"])


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {media_type: {"schema": schema}}, "required": True}}
