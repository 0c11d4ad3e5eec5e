"""Requests made from the engine's own description: never a 5xx."""

from engine_cases import KEY
from openapi_fuzz import fuzz


def test_the_description_names_every_route_and_its_bodies(running):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert set(described["paths"]) >= {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/adapters", "/health"}
    chat = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in described["components"]["schemas"][chat["$ref"].rpartition("/")[2]]["properties"]


def test_no_request_made_from_the_description_breaks_the_engine(running):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert fuzz(described, running.url, KEY) > 200
    assert running.complete("Where", max_tokens=1).status_code == 200
