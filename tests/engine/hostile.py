"""A tenant who asks all the time and must not notice anything, and files that other tenants send."""

from __future__ import annotations

import contextlib
import json
import threading

import torch
from engine_cases import OTHER_KEY
from safetensors.torch import load, save

from distilledprag.lora.peft_format import METADATA_KEY
from distilledprag.lora.weights import LoraPair, LoraWeights

RANK = 2
PAUSE = 0.05  # seconds between a victim's rounds


@contextlib.contextmanager
def victim(running, adapter, prompt):
    """Another tenant's answers before the block, again and again during it, and after it: all the same, bit by bit."""
    name = running.upload(adapter, OTHER_KEY)["model"]

    def answers():
        asked = [(name, {}), ("base", {}), (name, {"temperature": 1.0, "seed": 7}), ("base", {"temperature": 1.0, "seed": 7})]
        responses = [running.complete(prompt, model, key=OTHER_KEY, **fields) for model, fields in asked]
        assert all(response.status_code == 200 for response in responses), [response.text for response in responses]
        return [response.json()["choices"] for response in responses]

    before, seen, ended = answers(), [], threading.Event()

    def keep_asking():
        while not ended.wait(PAUSE):
            try:
                seen.append(answers())
            except Exception as error:
                seen.append(error)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert seen and all(record == before for record in seen), [record for record in seen if record != before][:1]
    assert answers() == before


def small_adapter(spec, seed=0, rank=RANK, scale=0.05):
    """A valid adapter of few bytes, with random values."""
    random = torch.Generator().manual_seed(seed)
    modules = {
        key: LoraPair(
            torch.randn(rank, d_in, generator=random) * scale,
            torch.randn(d_out, rank, generator=random) * scale,
        )
        for key, (d_in, d_out) in spec.shapes.items()
    }
    return LoraWeights(modules, float(rank), spec.identity, "hostile")


def changed_tensors(data, change):
    """The file with its tensors changed in place by `change`, its record kept."""
    tensors = load(data)
    change(tensors)
    return save(tensors, {METADATA_KEY: header_of(data)["__metadata__"][METADATA_KEY]})


def changed_header(data, change):
    """The file with its header changed in place by `change`, its tensor bytes untouched."""
    header = header_of(data)
    change(header)
    return with_header_text(data, json.dumps(header).encode())


def with_header_text(data, text):
    return len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
