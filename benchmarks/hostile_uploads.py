"""Eight users chat with a gateway while six clients upload files made to keep it busy: how much longer the answers take.

Engine and gateway are processes of their own over a tiny base with random weights, on real sockets. Rounds with and without the
uploads take turns; in a round every user asks `--questions` questions one after the other, and an upload that was refused is sent
again at once. Prints one JSON line and writes docs/results/hostile_uploads.json. The bar: p95 at most twice that without.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from distilledprag.files import write_atomically

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "e2e")]  # how tests start servers, and their hostile files
from hostile_files import HOSTILE  # noqa: E402
from prepared import prepared  # noqa: E402
from processes import engine, gateway  # noqa: E402

RESULT = ROOT / "docs" / "results" / "hostile_uploads.json"
FILES = ("styles.docx", "emphasis.md", "dots.txt", "content.pdf", "deep.html", "tree.pdf")
CITIES = ("Oakport", "Millport", "Dunmouth", "Ashhaven", "Fenbrook", "Halden", "Corby", "Tarn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--questions", type=int, default=6, help="of each user in a round")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of rounds")
    parser.add_argument("--limits", default="cpu=60", help="the gateway's, for one file")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = prepared(folder)
        with engine(folder, base) as (_, engine_url), gateway(folder, engine_url, base, "--limits", options.limits) as (_, url):
            measured = asyncio.run(measure(url, options))
    result = {"benchmark": "hostile_uploads", **measured, "config": vars(options) | {"result": None, "files": FILES}}
    names = ("torch", "fastapi", "uvicorn", "pypdfium2", "beautifulsoup4", "markdown-it-py")
    result["versions"] = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
    result["hardware"] = {"processor": platform.machine(), "cores": os.cpu_count(), "load_before": round(os.getloadavg()[2], 1)}
    line = json.dumps(result)
    write_atomically(options.result, line + "\n")
    print(line)


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """p50 and p95 of the seconds of an answer, of /health and of the listing, without and with uploads; medians over rounds."""
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "with_uploads": []}
    refused: Counter[str] = Counter()
    async with httpx2.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        for number, city in enumerate(CITIES):
            text = f"Person {number} of the list lives in {city}. Person {number} earns {number}1,000 euros a year."
            (await client.post("/v1/documents", json={"name": f"{city}.txt", "text": text})).raise_for_status()
        for name in FILES:  # what is read after all is in the store in both kinds of rounds
            await client.post("/v1/documents", files={"file": (name, HOSTILE[name]())})
        await chat(client, options.users, 1)  # warm
        for number in range(options.rounds):
            for way in ("alone", "with_uploads") if number % 2 == 0 else ("with_uploads", "alone"):
                uploads = [asyncio.create_task(upload(url, name, refused)) for name in FILES] if way == "with_uploads" else []
                if uploads:
                    await asyncio.sleep(1.0)  # the first ones are being read
                rounds[way].append(await chat(client, options.users, options.questions))
                for task in uploads:
                    task.cancel()
                await asyncio.gather(*uploads, return_exceptions=True)
                print(way, rounds[way][-1], file=sys.stderr)
    middle = {way: {name: round(statistics.median(one[name] for one in of), 4) for name in of[0]} for way, of in rounds.items()}
    ratios = {name: round(middle["with_uploads"][name] / middle["alone"][name], 2) for name in middle["alone"]}
    return {"seconds": middle, "ratios": ratios, "uploads_refused": dict(refused), "rounds": rounds}


async def chat(client: httpx2.AsyncClient, users: int, questions: int) -> dict[str, float]:
    times: dict[str, list[float]] = {"chat": [], "health": [], "list": []}

    async def timed(kind: str, sending: Any) -> None:
        begin = time.perf_counter()
        (await sending).raise_for_status()
        times[kind].append(time.perf_counter() - begin)

    async def user(number: int) -> None:
        for turn in range(questions):
            question = f"Where does person {number} live, asked for the time {turn}?"
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "max_tokens": 16}
            await timed("chat", client.post("/v1/chat/completions", json=body))
            if number == 0:
                await timed("health", client.get("/health"))
                await timed("list", client.get("/v1/documents"))

    await asyncio.gather(*(user(number) for number in range(users)))
    return {
        f"{kind}_{name}": round(sorted(of)[min(len(of) - 1, int(share * len(of)))], 4)
        for kind, of in times.items()
        for name, share in (("p50", 0.5), ("p95", 0.95))
    }


async def upload(url: str, name: str, refused: Counter[str]) -> None:
    """Send a hostile file again and again, until told to stop; then the client leaves."""
    data = HOSTILE[name]()
    async with httpx2.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        while True:
            answer = await client.post("/v1/documents", files={"file": (name, data)})
            refused[f"{name}: {answer.status_code}"] += 1


if __name__ == "__main__":
    main()
