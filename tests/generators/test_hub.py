"""Pushing a generator to the Hub and pulling it from there, against a Hub that lives in this process (no network)."""

from __future__ import annotations

import base64
import hashlib
import json

import httpx2 as httpx  # what huggingface_hub speaks through
import huggingface_hub
import pytest
from huggingface_hub.utils._http import default_client_factory
from tiny import PAPER, random_generator

from distilledprag.errors import CheckpointError
from distilledprag.generators import generator_identity, load_generator

COMMIT = "1" * 40


class Hub:
    """The Hub's HTTP interface as far as huggingface_hub uses it for one model repository."""

    def __init__(self):
        self.files = {}
        self.created = []
        self.tokens = set()

    def answer(self, request):
        path, method = request.url.path, request.method
        self.tokens.add(request.headers.get("authorization"))
        if path == "/api/repos/create":
            self.created.append(json.loads(request.content))
            return httpx.Response(200, json={"url": "https://huggingface.co/me/generator"})
        if path == "/api/validate-yaml":
            return httpx.Response(200, json={"errors": [], "warnings": []})
        if path == "/api/models/me/generator/preupload/main":
            names = [file["path"] for file in json.loads(request.content)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return httpx.Response(200, json={"files": files})
        if path == "/api/models/me/generator/commit/main":
            for line in map(json.loads, request.content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"https://huggingface.co/me/generator/commit/{COMMIT}"
            return httpx.Response(200, json={"commitUrl": url, "commitOid": COMMIT, "success": True})
        if path.startswith("/api/models/me/generator/tree/"):
            sha1 = {name: hashlib.sha1(content).hexdigest() for name, content in self.files.items()}
            tree = [{"type": "file", "path": name, "size": len(self.files[name]), "oid": sha1[name]} for name in self.files]
            return httpx.Response(200, json=tree)
        if path.startswith("/api/models/me/generator/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            return httpx.Response(200, json={"id": "me/generator", "sha": COMMIT, "siblings": siblings})
        content = self.files.get(path.removeprefix(f"/me/generator/resolve/{COMMIT}/"))
        if content is None:
            return httpx.Response(404, headers={"x-error-code": "EntryNotFound"})
        headers = {"etag": f'"{hashlib.sha1(content).hexdigest()}"', "x-repo-commit": COMMIT, "content-length": str(len(content))}
        return httpx.Response(200, headers=headers, content=b"" if method == "HEAD" else content)


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(hub.answer), follow_redirects=True))
    yield hub
    huggingface_hub.set_client_factory(default_client_factory)


@pytest.mark.parametrize("settings", [PAPER, {"architecture": "dyprag"}], ids=["paper", "dyprag"])
def test_a_generator_comes_back_from_the_hub_as_it_was_pushed(tiny_base, hub, tmp_path, settings):
    generator = random_generator(tiny_base, settings)
    generator.push_to_hub("me/generator", token="secret", private=True)
    assert hub.created[0]["name"] == "generator" and hub.created[0]["visibility"] == "private" and "Bearer secret" in hub.tokens
    assert {"config.json", "model.safetensors", "README.md"} <= hub.files.keys()
    card = hub.files["README.md"].decode()
    assert "distilledprag" in card
    pulled = load_generator("me/generator", tiny_base, cache_dir=tmp_path / "cache")
    assert generator_identity(pulled) == generator_identity(generator)
    mixed_in = type(generator).from_pretrained("me/generator", base=tiny_base, cache_dir=tmp_path / "cache")
    assert generator_identity(mixed_in) == generator_identity(generator)


def test_a_generator_that_is_not_on_the_hub_is_named(tiny_base, hub, tmp_path):
    with pytest.raises(CheckpointError, match="no generator at me/nothing"):
        load_generator("me/nothing", tiny_base, cache_dir=tmp_path / "cache")
