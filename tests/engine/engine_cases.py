"""Two tenants' keys, three documents, and a running engine as its clients see it, for the engine's tests."""

from __future__ import annotations

from dataclasses import dataclass

import httpx2
from openai import OpenAI

from distilledprag.engine.service import Engine

KEY, OTHER_KEY, METRICS_KEY = "tenant-one-has-this-key", "tenant-two-has-another", "key-of-the-operator-only"
DOCUMENTS = [
    "Ingrid Lindovic works for Velkor Freight. Ingrid Lindovic lives in Dunmouth.",
    "Clara Marsen works for Nexmere Software. Clara Marsen lives in Ashhaven.",
    "Omar Tovberg works for Corex Glass. Omar Tovberg lives in Oakport.",
]
QUESTIONS = [f"In which city does {name} live?" for name in ("Ingrid Lindovic", "Clara Marsen", "Omar Tovberg")]


@dataclass
class Running:
    """engine: None where it runs in another process."""

    url: str
    engine: Engine | None
    timeout: float = 60  # seconds

    def http(self, key=KEY):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=self.timeout, trust_env=False)

    def openai(self, key=KEY):
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def upload(self, data, key=KEY):
        with self.http(key) as http:
            response = http.post("/v1/adapters", content=data)
            assert response.status_code == 201, response.text
            return response.json()

    def complete(self, prompt, model="base", key=KEY, **fields):
        with self.http(key) as http:
            body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
            return http.post("/v1/completions", json=body)
