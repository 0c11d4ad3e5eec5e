"""Requests made from the engine's own description: never a 5xx."""

import pytest
from engine_cases import KEY
from openapi_fuzz import fuzz


def test_the_description_names_every_route_and_its_bodies(running):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert set(described["paths"]) >= {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/adapters", "/health"}
    chat = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in described["components"]["schemas"][chat["$ref"].rpartition("/")[2]]["properties"]


@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_no_request_made_from_the_description_breaks_the_engine(running, examples):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert fuzz(described, running.url, KEY, examples) > 4 * examples
    assert running.complete("Where", max_tokens=1).status_code == 200
