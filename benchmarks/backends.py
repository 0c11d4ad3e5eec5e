"""The engine's two backends side by side: plain adapters on the shipped base, embedded and on vLLM (`make test-vllm`).

Users ask one question after the other, each about a document of its own with an adapter of its own, over real sockets, greedy.
Both engines run all the time and are asked in turn, round by round; medians over rounds. vLLM is the one that the variable
DPRAG_VLLM_PYTHON names. Prints one JSON line, writes docs/results/backends.json and the table backends.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import torch

from distilledprag.files import write_atomically
from distilledprag.pipeline import DistilledPRAG

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "backends.json"
KEY = "key-of-the-benchmark-only"
VLLM_ARGS = "--enforce-eager --max-model-len 1024 --max-num-batched-tokens 512"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--requests", type=int, default=4, help="of each user and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    cases = documents_with_questions(max(options.users))
    prag = DistilledPRAG.from_pretrained(dtype=torch.float32)
    adapters = [prag.encode([document]) for document, _ in cases]
    prompts = [[prag.prompts.build(question, [document]).masked_ids for question in asked] for document, asked in cases]
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name) / "keys"
        keys.write_text(KEY + "\n")
        most = str(max(options.users))
        vllm = ["--backend", "vllm", "--max-loras", most, "--max-cpu-loras", most, "--vllm-args", VLLM_ARGS]
        with engine(keys, "--max-lora-rank", "512") as embedded, engine(keys, *vllm) as behind:
            rows = measure({"embedded": embedded, "vllm": behind}, [one.to_bytes() for one in adapters], prompts, options)
    result = {"benchmark": "backends", "rows": rows, "ranks": [one.rank for one in adapters], "prompt_tokens": sizes(prompts)}
    result |= {"config": {"users": options.users, "requests": options.requests, "rounds": options.rounds}}
    result |= {"versions": versions(), "hardware": {"processor": platform.machine(), "cores": os.cpu_count()}}
    line = json.dumps(result)
    write_atomically(options.result, line + "\n")
    write_atomically(options.result.with_suffix(".md"), table(result))
    print(line)


def documents_with_questions(count: int) -> list[tuple[str, list[str]]]:
    """Documents of tests/data/everyday.jsonl, the longest first, each with its questions."""
    rows = [json.loads(line) for line in (ROOT / "tests" / "data" / "everyday.jsonl").read_text().splitlines()]
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["documents"][0]["text"], []).append(row["question"])
    return sorted(found.items(), key=lambda item: -len(item[0]))[:count]


@contextlib.contextmanager
def engine(keys: Path, *arguments: str) -> Iterator[str]:
    """The address of a `dprag engine` over the default base."""
    command = [sys.executable, "-m", "distilledprag", "engine", "--port", "0", "--api-key-file", str(keys)]
    command += ["--served-model-name", "base", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ})
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def measure(
    engines: dict[str, str], adapters: list[bytes], prompts: list[list[list[int]]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    clients = {backend: {"base_url": url, "headers": {"authorization": f"Bearer {KEY}"}} for backend, url in engines.items()}
    models = {backend: [upload(client, data) for data in adapters] for backend, client in clients.items()}
    runs: dict[tuple[str, int], list[tuple[float, list[float], int]]] = {}
    for backend, client in clients.items():
        asyncio.run(load(client, models[backend], prompts, 1))  # warm; vLLM has the adapters now
    for _ in range(options.rounds):
        for users in options.users:
            for backend, client in clients.items():
                run = asyncio.run(load(client, models[backend][:users], prompts, options.requests))
                runs.setdefault((backend, users), []).append(run)
                print(f"{users} users, {backend}: {len(run[1]) / run[0]:.2f} answers/s", file=sys.stderr)
    return [row(backend, users, made) for (backend, users), made in runs.items()]


def row(backend: str, users: int, runs: list[tuple[float, list[float], int]]) -> dict[str, Any]:
    times = sorted(one for _, own, _ in runs for one in own)
    return {
        "backend": backend,
        "users": users,
        "answers_per_second": round(statistics.median(len(own) / seconds for seconds, own, _ in runs), 3),
        "tokens_per_second": round(statistics.median(tokens / seconds for seconds, _, tokens in runs), 2),
        "p50_seconds": round(times[len(times) // 2], 3),
        "p95_seconds": round(times[min(len(times) - 1, int(0.95 * len(times)))], 3),
        "requests": len(times),
    }


def upload(client: dict[str, Any], data: bytes) -> str:
    with httpx2.Client(**client, timeout=60, trust_env=False) as http:
        response = http.post("/v1/adapters", content=data)
        response.raise_for_status()
        return response.json()["model"]


async def load(
    client: dict[str, Any], models: list[str], prompts: list[list[list[int]]], requests: int
) -> tuple[float, list[float], int]:
    """One user per model, asking `requests` times: seconds in all, of each request, and tokens written."""
    times: list[float] = []
    written = 0

    async def user(http: httpx2.AsyncClient, number: int) -> None:
        nonlocal written
        for turn in range(requests):
            prompt = prompts[number][turn % len(prompts[number])]
            body = {"model": models[number], "prompt": prompt, "max_tokens": 24, "temperature": 0}
            begin = time.perf_counter()
            response = await http.post("/v1/completions", json=body)
            times.append(time.perf_counter() - begin)
            response.raise_for_status()
            written += response.json()["usage"]["completion_tokens"]

    async with httpx2.AsyncClient(**client, timeout=600, trust_env=False) as http:
        begin = time.perf_counter()
        await asyncio.gather(*(user(http, number) for number in range(len(models))))
        return time.perf_counter() - begin, times, written


def sizes(prompts: list[list[list[int]]]) -> list[int]:
    return sorted({len(prompt) for own in prompts for prompt in own})


def table(result: dict[str, Any]) -> str:
    """In markdown."""
    versions, hardware, ranks = result["versions"], result["hardware"], result["ranks"]
    head = (
        "# Embedded and vLLM, side by side\n\n"
        f"Made by `benchmarks/backends.py` (`make test-vllm`) on {hardware['cores']} CPU cores ({hardware['processor']}), one\n"
        f"thread each; vllm-cpu {versions['vllm-cpu']} with our plugin, torch {versions['torch']}, float32. Plain adapters of\n"
        f"rank {min(ranks)} to {max(ranks)} on the shipped base, one for each user; prompts of {result['prompt_tokens'][0]} to "
        f"{result['prompt_tokens'][-1]} tokens, answers of a few. Both\n"
        "were asked in turn, so what else ran on the machine slowed both. vLLM keeps the beginnings of a key's own prompts (its\n"
        "prefix cache), and rounds repeat the same questions: part of its lead is that.\n\n"
        "| users | backend | answers / s | tokens / s | p50, s | p95, s |\n|---|---|---|---|---|---|\n"
    )
    rows = sorted(result["rows"], key=lambda one: (one["users"], one["backend"]))
    columns = ("users", "backend", "answers_per_second", "tokens_per_second", "p50_seconds", "p95_seconds")
    return head + "".join("| " + " | ".join(str(one[name]) for name in columns) + " |\n" for one in rows)


def versions() -> dict[str, str]:
    code = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    made = subprocess.run([os.environ["DPRAG_VLLM_PYTHON"], "-c", code], capture_output=True, text=True, check=True)
    return {"python": platform.python_version(), "torch": torch.__version__, "vllm-cpu": made.stdout.strip()}


if __name__ == "__main__":
    main()
