"""A tenant who asks all the time and must not notice anything, and files that other tenants send."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import threading
import zipfile

import torch
from engine_cases import OTHER_KEY
from hypothesis import strategies as st
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


def pickled(_):
    buffer = io.BytesIO()
    torch.save({"lora": torch.ones(2)}, buffer)
    return buffer.getvalue()


def archive(_):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../adapter_config.json", "{}")
    return buffer.getvalue()


def million_tensors(data):
    tensors = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(1_000_000))
    return with_header_text(data, b"{" + tensors + b"}")


def value(name, place, number):
    def change(tensors):
        tensors[name].view(-1)[place] = number

    return lambda data: changed_tensors(data, change)


def tensors(change):
    return lambda data: changed_tensors(data, change)


def header(change):
    return lambda data: changed_header(data, change)


def rename(record, old, new):
    record[new] = record.pop(old)


def hostile_files(first, second):
    """By name: what makes it of a valid file, and the status and code of its refusal. first, second: an A and a B of the file."""
    attention = re.sub(r"mlp\.\w+", "self_attn.q_proj", first)
    layer_99 = re.sub(r"layers\.\d+", "layers.99", first)
    return {
        "nan": (value(first, 0, float("nan")), 422, "not_finite"),
        "infinite": (value(second, -1, float("inf")), 422, "not_finite"),
        "minus infinite": (value(second, 3, float("-inf")), 422, "not_finite"),
        "large value": (value(first, 0, 2e4), 422, "norm"),
        "large change": (tensors(lambda all: [tensor.mul_(600) for tensor in all.values()]), 422, "norm"),
        "large alpha": (header(lambda h: rescale(h, 1e4)), 422, "norm"),
        "huge alpha": (header(lambda h: rescale(h, 1e300)), 422, "record"),
        "smaller hidden size": (tensors(lambda all: all.update({first: all[first][:, :-1].clone()})), 422, "shape"),
        "larger hidden size": (tensors(lambda all: all.update({first: torch.ones(2, 4096)})), 422, "shape"),
        "shape of 2^60": (header(lambda h: h[first].update(shape=[0, 2**60])), 422, "shape"),
        "negative shape": (header(lambda h: h[first].update(shape=[-2, 4])), 422, "malformed"),
        "no lora_B": (tensors(lambda all: all.pop(second)), 422, "keys"),
        "an attention module": (tensors(lambda all: all.update({attention: all[first].clone()})), 422, "keys"),
        "layer 99": (tensors(lambda all: all.update({layer_99: all[first].clone()})), 422, "keys"),
        "embeddings": (tensors(lambda all: all.update({"base_model.model.embed_tokens.weight": torch.ones(2)})), 422, "keys"),
        "modules_to_save": (tensors(lambda all: all.update({"base_model.model.lm_head.weight": torch.ones(2)})), 422, "keys"),
        "dora": (tensors(lambda all: all.update({first.replace("lora_A", "lora_magnitude_vector"): torch.ones(2)})), 422, "keys"),
        "lora bias": (tensors(lambda all: all.update({second.replace("weight", "bias"): torch.ones(2)})), 422, "keys"),
        "a name that is a path": (tensors(lambda all: all.update({"../../etc/passwd": torch.ones(1)})), 422, "keys"),
        "a name of another script": (header(lambda h: rename(h, first, first.replace("a", "\u0430"))), 422, "keys"),
        "whole numbers": (tensors(lambda all: all.update({first: all[first].to(torch.int32)})), 422, "dtype"),
        "float64": (tensors(lambda all: all.update({first: all[first].double()})), 422, "dtype"),
        "float8": (tensors(lambda all: all.update({first: all[first].to(torch.float8_e4m3fn)})), 422, "dtype"),
        "overlapping tensors": (header(lambda h: h[first].update(data_offsets=h[second]["data_offsets"])), 422, "malformed"),
        "offsets beyond the end": (header(lambda h: h[first].update(data_offsets=[0, 2**50])), 422, "truncated"),
        "trailing bytes": (lambda data: data + b"more", 422, "malformed"),
        "the last byte gone": (lambda data: data[:-1], 422, "truncated"),
        "nothing": (lambda data: b"", 422, "truncated"),
        "a header of 2^62 bytes": (lambda data: (2**62).to_bytes(8, "little") + b"{}", 413, "header_too_long"),
        "a million tensors": (million_tensors, 413, None),
        "a deep header": (lambda data: with_header_text(data, b"[" * 100_000), 422, "malformed"),
        "the same key twice": (lambda data: with_header_text(data, twice(data, first)), 422, "malformed"),
        "no record": (header(lambda h: h.pop("__metadata__")), 422, "record"),
        "more metadata": (header(lambda h: h["__metadata__"].update(path="../x")), 422, "record"),
        "another base": (header(lambda h: rebase(h)), 409, "wrong_base"),
        "a pickle": (pickled, 413, "header_too_long"),
        "pickle opcodes": (lambda data: pickle.dumps({"a": [1]}), 413, "header_too_long"),
        "an archive": (archive, 413, "header_too_long"),
        "a file of text": (lambda data: b"{}" * 500, 413, None),
    }  # fmt: skip


def record_of(header):
    (name,) = header["__metadata__"]
    return name, json.loads(header["__metadata__"][name])


def rescale(header, alpha):
    name, record = record_of(header)
    header["__metadata__"][name] = json.dumps(record | {"alpha": alpha})


def rebase(header):
    name, record = record_of(header)
    header["__metadata__"][name] = json.dumps(record | {"base": record["base"] | {"config_hash": "0" * 64}})


def twice(data, name):
    text = json.dumps(header_of(data))
    return (text[:-1] + f', "{name}": ' + json.dumps(header_of(data)[name]) + "}").encode()


@st.composite
def damage(draw):
    """One mutation of a valid file: of its bytes, of its length, of an entry of its header, or of its values."""
    kind = draw(st.sampled_from(["bytes", "header bytes", "cut", "longer", "entry", "values", "record"]))
    place, amount = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 255))
    return kind, place, amount, draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 1e-30, -1.0, 30.0, 1e3, 6e4, 3e38]))


def damaged(data, kind, place, amount, number, factor):
    header_end = 8 + int.from_bytes(data[:8], "little")
    if kind in ("bytes", "header bytes"):
        changed = bytearray(data)
        changed[int(place * (header_end if kind == "header bytes" else len(data)))] = amount
        return bytes(changed)
    if kind == "cut":
        return data[: int(place * len(data))]
    if kind == "longer":
        return data + bytes([amount]) * (1 + number % 5000)
    names = sorted(name for name in header_of(data) if name != "__metadata__")
    name = names[int(place * len(names))]
    if kind == "values":
        return changed_tensors(data, lambda all: all[name].view(-1)[amount % all[name].numel() :].mul_(factor))
    if kind == "entry":
        edits = [
            lambda entry: entry.update(shape=[number, amount]),
            lambda entry: entry.update(shape=entry["shape"][::-1]),
            lambda entry: entry.update(dtype=["F32", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "", "\x00"][amount % 8]),
            lambda entry: entry.update(data_offsets=[number, number + amount]),
            lambda entry: entry.clear(),
        ]
        return changed_header(data, lambda header: edits[amount % len(edits)](header[name]))
    values = [number, -1, "", None, [], {}, factor, str(number), "\ud800"]

    def edit(header):
        metadata, record = record_of(header)
        header["__metadata__"][metadata] = json.dumps(record | {sorted(record)[int(place * len(record))]: values[amount % 9]})

    return changed_header(data, edit)
