"""Users at a time, each with an adapter of their own, through the engine's queue and batches, against the same without.

Every user sends one masked prompt; the state adapters have 64 to 512 rows, so prompts differ in length. `lora` has adapters of
PRAG's and DyPRAG's form for three passages in their place (rank 6 on every MLP module). All ways read the same prompts and write
as many tokens. No network; as shipped, the engine decodes 32 rows together. `resident`: a short answer while so many adapters are
kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from measuring import Spent, medians, ratio, side_by_side

from distilledprag.base.architecture import module_shapes
from distilledprag.engine.adapter_store import Quotas, StoredAdapter
from distilledprag.engine.jobs import End, Sampling
from distilledprag.engine.service import Engine, Settings
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraPair, LoraWeights
from distilledprag.pipeline import DistilledPRAG

ROWS = (64, 128, 256, 512)
TOKENS = 32  # of an answer
WITH_LORA = 8  # users up to whom LoRA are measured too
MANY = Quotas(ttl=86_400.0, per_tenant=10_000, bytes_per_tenant=2**34, bytes=2**34)


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Times and rates by users, and by adapters that are kept."""
    engine = Engine(prag.base, Settings(quotas=MANY, request_timeout=3600.0))
    engine.start()
    growth, ratios, at_least = [], {}, {}
    try:
        for users, rounds in ((1, 2), (8, 2)) if quick else ((1, 5), (8, 3), (32, 2), (64, 2)):
            spent = _by_way(prag, engine, users, rounds)
            for way, times in spent.items():
                seen = medians(times)
                rate = round(users * TOKENS / seen["seconds"], 1)
                growth.append({"users": users, "way": way, "tokens_per_second": rate, **seen})
            ratios[f"throughput, {users} users, distinct / no adapter"] = ratio(spent["no adapter"], spent["distinct"])
            if "lora" in spent:
                ratios[f"time, {users} users, lora / distinct"] = ratio(spent["lora"], spent["distinct"])
            at_least[f"throughput, {users} users, distinct / no adapter"] = 0.9
        rows = _resident(prag, engine, (1, 100) if quick else (1, 10, 100, 1000), 3 if quick else 7)
    finally:
        engine.stop()
    return {"rows": rows, "growth": growth, "ratios": ratios, "at_most": {}, "at_least": at_least}


def _by_way(prag: DistilledPRAG, engine: Engine, users: int, rounds: int) -> dict[str, list[Spent]]:
    """What all users' answers took, in each round, by what their prompts came with."""
    adapters = [_adapter(prag, ROWS[number % len(ROWS)], number) for number in range(users)]
    prompts = [_prompt(prag, adapter.count) for adapter in adapters]
    sent: dict[str, list[StoredAdapter | None]] = {
        "no adapter": [None] * users,
        "distinct": [engine.accept("bench", adapter.to_bytes()) for adapter in adapters],
    }
    if users <= WITH_LORA:
        sent["lora"] = [engine.accept("bench", _lora(prag, number).to_bytes()) for number in range(users)]
    ways = {name: lambda _, stored=stored: _run(engine, prompts, stored, TOKENS) for name, stored in sent.items()}
    return side_by_side(ways, rounds, warm=1 if users <= WITH_LORA else 0)


def _resident(prag: DistilledPRAG, engine: Engine, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A short answer with the newest of so many adapters."""
    rows, kept, prompt = [], 0, _prompt(prag, 64)
    for count in counts:
        while kept < count:
            newest = engine.accept("bench", _adapter(prag, 64, kept).to_bytes())
            kept += 1
        spent = side_by_side({"ask": lambda _, newest=newest: _run(engine, [prompt], [newest], 8)}, rounds)
        rows.append({"resident": count, "way": "an answer of 8 tokens", **medians(spent["ask"])})
    return rows


def _adapter(prag: DistilledPRAG, rows: int, seed: int) -> StateAdapter:
    width = prag.base.model.config.hidden_size
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return StateAdapter(values, prag.states.layer, prag.base.identity)


def _lora(prag: DistilledPRAG, seed: int, rank: int = 6) -> LoraWeights:
    chosen, modules = torch.Generator().manual_seed(seed), {}
    for key, (d_in, d_out) in module_shapes(prag.base.model.config).items():
        a, b = (0.01 * torch.randn(shape, generator=chosen) for shape in ((rank, d_in), (d_out, rank)))
        modules[key] = LoraPair(a.bfloat16(), b.bfloat16())
    return LoraWeights(modules, float(rank), prag.base.identity, "prag")


def _prompt(prag: DistilledPRAG, rows: int) -> list[int]:
    return [*prag.prompts.masked_context([rows]), *prag.prompts.question("What does the tenant pay?")]


def _run(engine: Engine, prompts: list[list[int]], adapters: list[StoredAdapter | None], tokens: int) -> None:
    """All at once; ends when every answer has."""
    ended = threading.Semaphore(0)

    def listener(event: object) -> None:
        if isinstance(event, End):
            ended.release()

    for number, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        # Warm sampling, so that random states do not end an answer at once.
        engine.submit("bench", prompt, tokens, adapter, Sampling(temperature=5.0, seed=number), listener)
    for _ in prompts:
        ended.acquire()
