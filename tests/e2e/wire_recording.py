"""Questions through real servers, each with the bytes that left the gateway while it was answered."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import httpx2
from processes import engine, gateway, recording_proxy

PARTS = ["bar", "den", "kel", "mor", "tov", "vin", "gras", "hol", "lind", "ost", "quen", "ruf"]


@dataclass(frozen=True)
class Exchange:
    """sent: one entry a connection; documents: names of those whose passages were used; mode: how it was answered."""

    question: str
    sent: list[bytes]
    documents: list[str]
    mode: str


def made_up(count, seed):
    """Documents about made-up people, and two questions about each that name the person only."""
    chosen = random.Random(seed)

    def name():
        return "".join(chosen.sample(PARTS, 3)).capitalize()

    documents, questions = {}, []
    for number in range(count):
        person = f"{name()} {name()}"
        facts = [f"{person} lives in {name()}. {person} works for {name()} and owns the vessel {name()}."]
        facts.append(f"The salary is ${chosen.randint(100, 999)},{chosen.randint(100, 999)} since {chosen.randint(1950, 2024)}.")
        facts.append(
            f"Write to {name().lower()}@{name().lower()}.example, in reference to the case {chosen.randint(10**6, 10**7)}."
        )
        documents[f"{number}.txt"] = " ".join(facts)
        questions += [f"Where does {person} live?", f"Which vessel does {person} own?"]
    return documents, questions


def record(documents, questions, folder, base, top_k=3) -> list[Exchange]:
    """Ask all questions, one after the other, half of them streamed.

    base: a folder, None: the default one; top_k: passages for each.
    """
    exchanges = []
    with (
        engine(folder, base) as (_, engine_url),
        recording_proxy(engine_url) as recording,
        gateway(folder, recording.url, base) as (_, url),
        httpx2.Client(base_url=url, timeout=600, trust_env=False) as http,
    ):
        for name, text in documents.items():
            assert http.post("/v1/documents", json={"name": name, "text": text}).status_code == 200
        for number, question in enumerate(questions):
            before = [len(connection) for connection in recording.connections]
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
            body |= {"stream": number % 2 == 1, "distilledprag": {"top_k": top_k}}
            response = http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200 and "error" not in response.text
            details = first_details(response)
            before += [0] * (len(recording.connections) - len(before))
            sent = [bytes(now[start:]) for now, start in zip(recording.connections, before, strict=True) if len(now) > start]
            used = [passage["source"] for passage in details["passages"]]
            exchanges.append(Exchange(question, sent, used, details["mode"]))
    return exchanges


def first_details(response):
    """The field `distilledprag` of an answer, whole or streamed."""
    if response.headers["content-type"].startswith("application/json"):
        return response.json()["distilledprag"]
    return json.loads(response.text.split("\n\n")[0].removeprefix("data: "))["distilledprag"]
