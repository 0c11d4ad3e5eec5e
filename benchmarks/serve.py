"""Throughput and latency of `dprag engine` under load, beside three other ways to serve the same requests.

    distinct      every user has an adapter of their own; all are decoded in one batch (the engine as it is)
    no_adapter    (a) the same engine and users, the bare base model
    one_at_a_time (b) the engine with --max-num-seqs 1: one request after the other, each with its adapter
    hotswap       (c) PEFT's `hotswap_adapter` from a folder, then `generate`, one request after the other. Measured in this
                  process without HTTP, which favours it. It cannot serve users together, so one number stands for all loads.

The users of a load ask one request after the other each, over real sockets. Every request reads `--prompt` tokens and writes
`--tokens` (the base has random weights and seldom ends early; what was written is counted). The ways are measured in turn,
round by round; medians over rounds. Prints one JSON line, writes docs/results/serve.json and .png.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distilledprag.base.architecture import module_shapes
from distilledprag.base.llm import load_base, save_base
from distilledprag.base.sampled_mask import install_mask
from distilledprag.files import write_atomically
from distilledprag.lora.weights import LoraPair, LoraWeights

RESULT = Path(__file__).parents[1] / "docs" / "results" / "serve.json"
KEY = "key-of-the-benchmark-only"
VOCABULARY = 4096
WAYS = ("distinct", "no_adapter", "one_at_a_time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 64], help="of the adapters: the paper's, a high one")
    parser.add_argument("--requests", type=int, default=1, help="of each user and round (one user: four times as many)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=512, help="the base's width; 8 layers")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name), options)
    result = {"benchmark": "serve", "rows": rows, "ratios": ratios(rows), "config": vars(options) | {"result": None}}
    result |= {"versions": versions(), "hardware": hardware()}
    line = json.dumps(result)
    write_atomically(options.result, line + "\n")
    plot(rows, options.result.with_suffix(".png"))
    print(line)


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    base = make_base(folder / "base", options.hidden)
    rows = []
    for rank in options.ranks:
        adapters = [random_adapter(base, rank, seed) for seed in range(max(options.users))]
        prompt = torch.randint(300, 2500, (options.prompt,), generator=torch.Generator().manual_seed(0)).tolist()
        with Engine(folder, 32) as batching, Engine(folder, 1) as single:
            names = [batching.upload(adapter) for adapter in adapters]
            single_names = [single.upload(adapter) for adapter in adapters]
            ways = {
                "distinct": (batching, names),
                "no_adapter": (batching, ["base"] * len(names)),
                "one_at_a_time": (single, single_names),
            }
            measured: dict[tuple[str, int], list[tuple[float, list[float]]]] = {}
            for engine, models in ways.values():
                asyncio.run(load(engine.url, models[:2], prompt, options.tokens, 1))  # warm
            for _ in range(options.rounds):
                for users in options.users:
                    requests = options.requests * (4 if users == 1 else 1)
                    for way, (engine, models) in ways.items():
                        run = asyncio.run(load(engine.url, models[:users], prompt, options.tokens, requests))
                        measured.setdefault((way, users), []).append(run)
                        print(f"rank {rank}, {users} users, {way}: {run[0]:.0f} tokens/s", file=sys.stderr)
        for (way, users), runs in measured.items():
            times = sorted(seconds for _, one in runs for seconds in one)
            rows.append(row(rank, way, users, statistics.median(rate for rate, _ in runs), times))
        rate, times = hotswap(folder, adapters[:8], prompt, options)
        rows.append(row(rank, "hotswap", 1, rate, sorted(times)))
    return rows


def row(rank: int, way: str, users: int, rate: float, times: list[float]) -> dict[str, Any]:
    return {
        "rank": rank,
        "way": way,
        "users": users,
        "tokens_per_second": round(rate, 1),
        "p50_seconds": round(times[len(times) // 2], 4),
        "p95_seconds": round(times[min(len(times) - 1, int(0.95 * len(times)))], 4),
        "requests": len(times),
    }


class Engine:
    """A `dprag engine` process over the benchmark's base."""

    def __init__(self, folder: Path, rows: int) -> None:
        keys = folder / "keys"
        keys.write_text(KEY + "\n")
        command = [sys.executable, "-m", "distilledprag", "engine", "--port", "0", "--model", str(folder / "base")]
        command += ["--api-key-file", str(keys), "--max-num-seqs", str(rows), "--served-model-name", "base"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> Engine:
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def upload(self, adapter: LoraWeights) -> str:
        headers = {"authorization": f"Bearer {KEY}"}
        response = httpx2.post(f"{self.url}/v1/adapters", content=adapter.to_bytes(), headers=headers, timeout=60)
        response.raise_for_status()
        return response.json()["model"]


async def load(url: str, models: list[str], prompt: list[int], tokens: int, requests: int) -> tuple[float, list[float]]:
    """One user per model, asking `requests` times; (tokens written per second, seconds of each request)."""
    times: list[float] = []
    written = 0

    async def user(client: httpx2.AsyncClient, number: int, model: str) -> None:
        nonlocal written
        for turn in range(requests):
            body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0, "seed": 1000 * number + turn}
            begin = time.perf_counter()
            response = await client.post("/v1/completions", json=body)
            times.append(time.perf_counter() - begin)
            response.raise_for_status()
            written += response.json()["usage"]["completion_tokens"]

    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=600) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(user(client, number, model) for number, model in enumerate(models)))
        seconds = time.perf_counter() - begin
    return written / seconds, times


def hotswap(
    folder: Path, adapters: list[LoraWeights], prompt: list[int], options: argparse.Namespace
) -> tuple[float, list[float]]:
    """One adapter after the other is swapped in from its folder and asked once."""
    from peft import PeftModel
    from peft.utils.hotswap import hotswap_adapter

    folders = []
    for number, adapter in enumerate(adapters):
        folders.append(folder / f"adapter-{adapter.rank}-{number}")
        adapter.save_pretrained(folders[-1])
    base = load_base(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base.model, folders[0]).eval()
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens, "do_sample": True}
    times = []
    for place in [folders[0], *folders]:
        begin = time.perf_counter()
        hotswap_adapter(model, str(place), adapter_name="default", torch_device="cpu")
        with torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        times.append(time.perf_counter() - begin)
        assert made.shape[1] == options.prompt + options.tokens
    return options.tokens * len(times[1:]) / sum(times[1:]), times[1:]  # the first one warms up


def make_base(folder: Path, hidden: int) -> Any:
    """A random Llama; its tokenizer has a token for every byte and fillers up to the size of a small vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|end|>", *alphabet, *(f"word{number}" for number in range(VOCABULARY - len(alphabet) - 1))]
    backend = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ends = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=2048, **ends)
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 8, "num_attention_heads": 8}
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True, **sizes, **ids)
    model = LlamaForCausalLM(config)
    install_mask(model, tokenizer, seed=0)
    save_base(model, tokenizer, folder)
    return load_base(folder, dtype=torch.float32)


def random_adapter(base: Any, rank: int, seed: int) -> LoraWeights:
    random = torch.Generator().manual_seed(seed)
    modules = {
        key: LoraPair(torch.randn(rank, d_in, generator=random) * 0.02, torch.randn(d_out, rank, generator=random) * 0.02)
        for key, (d_in, d_out) in module_shapes(base.model.config).items()
    }
    return LoraWeights(modules, float(rank), base.identity, "benchmark")


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Throughput of `distinct` over each other way, by rank and number of users."""
    rates = {(one["rank"], one["way"], one["users"]): one["tokens_per_second"] for one in rows}
    found: dict[str, dict[str, float]] = {}
    for (rank, way, users), rate in rates.items():
        if way == "distinct":
            others = {"no_adapter": users, "one_at_a_time": users, "hotswap": 1}
            found[f"rank {rank}, {users} users"] = {
                other: round(rate / rates[rank, other, count], 2) for other, count in others.items()
            }
    return found


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ranks = sorted({one["rank"] for one in rows})
    figure, axes = plt.subplots(2, len(ranks), figsize=(4.5 * len(ranks), 6), squeeze=False, sharex=True)
    for column, rank in enumerate(ranks):
        for way in (*WAYS, "hotswap"):
            own = [one for one in rows if (one["rank"], one["way"]) == (rank, way)]
            users = [one["users"] for one in own]
            axes[0][column].plot(users, [one["tokens_per_second"] for one in own], marker="o", label=way.replace("_", " "))
            axes[1][column].plot(users, [one["p95_seconds"] for one in own], marker="o")
        axes[0][column].set(title=f"rank {rank}", ylabel="tokens / s", xscale="log")
        axes[1][column].set(xlabel="users", ylabel="p95 of a request, s", yscale="log")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "fastapi", "uvicorn")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def hardware() -> dict[str, Any]:
    return {"processor": platform.machine(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
