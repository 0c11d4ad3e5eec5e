"""`dprag engine` as it starts without further options: what one key may take leaves the others theirs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import fields

import httpx2
import pytest
from engine_cases import KEY, OTHER_KEY
from hostile import small_adapter
from processes import server

from distilledprag.base.llm import load_base
from distilledprag.cli.engine import EngineOptions, settings_of
from distilledprag.cli.main import engine as engine_command
from distilledprag.errors import ConfigError
from distilledprag.lora.validation import AdapterSpec

MIB = 2**20


def usual_options(**changed):
    """What the command line gives when no option is named."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(engine_command).parameters.items()}
    return EngineOptions(**defaults | changed)


@contextlib.contextmanager
def engine_process(folder, base, *options):
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n{OTHER_KEY}\n")
    with server("engine", "--port", 0, "--api-key-file", keys, "--model", base, *options) as (_, url):
        yield url


def test_a_key_gets_a_fourth_of_what_all_may_unless_it_is_said_otherwise():
    settings = settings_of(usual_options())
    assert (settings.max_queue, settings.max_queue_per_tenant) == (256, 64)
    assert (settings.quotas.bytes, settings.quotas.bytes_per_tenant) == (2048 * MIB, 512 * MIB)
    assert settings.limits.adapter_bytes == settings.quotas.bytes
    settings = settings_of(usual_options(max_queue=10, max_queue_per_key=10, adapter_memory=8, adapter_memory_per_key=3))
    assert (settings.max_queue_per_tenant, settings.quotas.bytes_per_tenant) == (10, 3 * MIB)
    assert settings_of(usual_options(max_queue=1)).max_queue_per_tenant == 1
    for name in ("max_queue", "adapter_memory"):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}-per-key is larger"):
            settings_of(usual_options(**{name: 8, f"{name}_per_key": 9}))
    assert {field.name for field in fields(EngineOptions)} >= inspect.signature(engine_command).parameters.keys()


def test_a_key_that_floods_the_usual_engine_locks_nobody_out(tmp_path, tiny_base_folder):
    """More requests at once than may wait of one key, and more adapters than it may keep."""

    async def check(url):
        limits = httpx2.Limits(max_connections=None)
        async with (
            httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=120, limits=limits) as flooder,
            httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {OTHER_KEY}"}, timeout=120) as other,
        ):
            body = {"model": "base", "prompt": "Where", "max_tokens": 60, "temperature": 1.5}
            flood = [asyncio.create_task(flooder.post("/v1/completions", json=body | {"seed": n})) for n in range(130)]
            refused = None
            for done in asyncio.as_completed(flood):
                refused = await done
                if refused.status_code == 429:
                    break
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_requests_of_key"
            answer = await other.post("/v1/completions", json=body | {"max_tokens": 2})
            assert answer.status_code == 200, answer.text
            assert any(not task.done() for task in flood), "the flood was still there"
            for task in flood:
                task.cancel()
            base = load_base(tiny_base_folder)
            spec = AdapterSpec.from_config(base.model.config, identity=base.identity)
            data = small_adapter(spec, rank=256).to_bytes()
            responses = [await flooder.post("/v1/adapters", content=data) for _ in range(8 * MIB // len(data) + 2)]
            assert responses[0].status_code == 201
            assert responses[-1].status_code == 429 and responses[-1].json()["error"]["code"] == "adapter_bytes_quota"
            assert (await other.post("/v1/adapters", content=data)).status_code == 201

    with engine_process(tmp_path, tiny_base_folder, "--adapter-memory", "32") as url:
        asyncio.run(check(url))
