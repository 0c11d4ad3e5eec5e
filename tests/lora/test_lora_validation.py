"""The gate for adapters from strangers: each hostile or wrong file is refused for its own reason."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_examples import (
    ALL_TARGETS,
    ARCHITECTURES,
    IDENTITY,
    random_adapter,
    record_of,
    same_tensors,
    tiny_config,
    tiny_model,
)
from safetensors.torch import load, save

from distilledprag.errors import CheckpointError, ConfigError, IncompatibleBaseError
from distilledprag.lora import (
    MLP_TARGETS,
    AdapterError,
    AdapterSpec,
    LoraPair,
    LoraWeights,
    Rejection,
    check_adapter,
    container,
    module_shapes,
)
from distilledprag.lora.validation import frobenius_norm_of_product

CONFIG = tiny_config()
SPEC = AdapterSpec.from_config(CONFIG, identity=IDENTITY, maximum_rank=8)
WEIGHTS = random_adapter(CONFIG)
NAME = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


def code_of(data: bytes, spec: AdapterSpec = SPEC) -> Rejection:
    with pytest.raises(AdapterError) as caught:
        check_adapter(data, spec)
    assert isinstance(caught.value, CheckpointError)
    assert len(str(caught.value)) > 40
    return caught.value.code


def changed(change) -> bytes:
    """WEIGHTS' file after `change(tensors)`, with its record."""
    tensors = load(WEIGHTS.to_bytes())
    change(tensors)
    return save(tensors, {"distilledprag": record_of(WEIGHTS.to_bytes())})


def with_header(change) -> bytes:
    """WEIGHTS' file after `change(header)`, its tensor bytes untouched."""
    data = WEIGHTS.to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", [MLP_TARGETS, ALL_TARGETS], ids=["mlp", "mlp+attention"])
def test_the_expected_sizes_are_those_of_the_model(architecture, targets):
    model = tiny_model(architecture)
    linears = {
        name.removeprefix("model."): (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in targets
    }
    assert module_shapes(model.config, targets) == linears


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_good_adapter_is_accepted_bit_by_bit(dtype):
    for rank in (1, 8):
        weights = random_adapter(CONFIG, rank=rank).to(dtype=dtype)
        assert same_tensors(check_adapter(weights.to_bytes(), SPEC), weights)
        assert len(weights.to_bytes()) <= SPEC.byte_limit


def test_the_served_models_own_name_replaces_the_senders():
    weights = random_adapter(CONFIG, base=dataclasses.replace(IDENTITY, id="../../somewhere/else"))
    assert check_adapter(weights.to_bytes(), SPEC).base == IDENTITY


def test_an_adapter_for_another_base_says_which_and_which_is_loaded():
    other = dataclasses.replace(IDENTITY, id="example/other", config_hash="d" * 64)
    with pytest.raises(IncompatibleBaseError, match=r"example/other.*loaded base model is 'example/base'"):
        check_adapter(random_adapter(tiny_config(hidden_size=64), base=other).to_bytes(), SPEC)


def test_a_million_tensor_header_is_refused_without_parsing_it(monkeypatch):
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' + b"".join(
        b',"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(1_000_000)
    )
    header += b"}"
    data = len(header).to_bytes(8, "little") + header

    def never(*_args, **_options):
        raise AssertionError("the header was parsed")

    monkeypatch.setattr(container.json, "loads", never)
    monkeypatch.setattr(container, "load", never)
    assert code_of(data) == Rejection.HEADER_TOO_LONG


def test_the_header_limit_is_inclusive():
    data = WEIGHTS.to_bytes()
    length = int.from_bytes(data[:8], "little")
    check_adapter(data, dataclasses.replace(SPEC, header_limit=length))
    assert code_of(data, dataclasses.replace(SPEC, header_limit=length - 1)) == Rejection.HEADER_TOO_LONG


def test_truncated_files_are_refused_wherever_they_end():
    data = WEIGHTS.to_bytes()
    for end in (0, 7, 8, 200, len(data) // 2, len(data) - 1):
        assert code_of(data[:end]) == Rejection.TRUNCATED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ((2**62).to_bytes(8, "little") + b"{}", Rejection.HEADER_TOO_LONG),
        ((2).to_bytes(8, "little") + b"[]", Rejection.MALFORMED),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", Rejection.MALFORMED),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, Rejection.MALFORMED),
        (WEIGHTS.to_bytes() + b"trailing", Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].pop("dtype")), Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].update(extra=1)), Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].update(shape=[-1, 3])), Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].update(shape=[True, 3])), Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].update(shape=[10**4000])), Rejection.MALFORMED),
        (with_header(lambda header: header[NAME].update(data_offsets=[0, 384])), Rejection.MALFORMED),
        (
            with_header(lambda header: header.update({"__metadata__": {"distilledprag": 5}})),
            Rejection.MALFORMED,
        ),
        (with_header(lambda header: header[NAME].update(shape=[0, 2**60])), Rejection.SHAPE),
        (with_header(lambda header: header[NAME].update(dtype="F64")), Rejection.DTYPE),
        (with_header(lambda header: header[NAME].update(dtype="I32")), Rejection.DTYPE),
        (with_header(lambda header: header[NAME].update(data_offsets=[0, 2**50])), Rejection.TRUNCATED),
        (with_header(lambda header: header["__metadata__"].update(more="")), Rejection.RECORD),
        (with_header(lambda header: header.pop("__metadata__")), Rejection.RECORD),
        (with_header(lambda header: header["__metadata__"].update(distilledprag="{}")), Rejection.RECORD),
    ],
)
def test_hostile_headers_are_refused_with_their_reason(data, code):
    assert code_of(data) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda tensors: tensors.pop(NAME), Rejection.KEYS),
        (lambda tensors: tensors.update({"../../etc/passwd": torch.ones(1)}), Rejection.KEYS),
        (lambda tensors: tensors.update({NAME.replace("lora_B", "lora_C"): torch.ones(1)}), Rejection.KEYS),
        (
            lambda tensors: tensors.update({NAME.replace("layers.1", "layers.01"): torch.ones(1)}),
            Rejection.KEYS,
        ),
        (
            lambda tensors: tensors.update({"base_model.model.model.embed_tokens.weight": torch.ones(1)}),
            Rejection.KEYS,
        ),
        (lambda tensors: tensors.update({NAME: torch.ones(31, 3)}), Rejection.SHAPE),
        (lambda tensors: tensors.update({NAME: torch.ones(32, 2)}), Rejection.SHAPE),
        (lambda tensors: tensors.update({NAME: torch.ones(3, 32)}), Rejection.SHAPE),
        (lambda tensors: tensors.update({NAME: torch.ones(32, 3, 1)}), Rejection.SHAPE),
        (lambda tensors: tensors.update({NAME: torch.tensor(1.0)}), Rejection.SHAPE),
        (lambda tensors: tensors.update({NAME: torch.ones(32, 3).to(torch.float8_e4m3fn)}), Rejection.DTYPE),
        (
            lambda tensors: tensors[NAME].index_fill_(0, torch.tensor([31]), float("nan")),
            Rejection.NOT_FINITE,
        ),
        (
            lambda tensors: tensors[NAME].index_fill_(0, torch.tensor([0]), float("-inf")),
            Rejection.NOT_FINITE,
        ),
        (lambda tensors: tensors[NAME].index_fill_(0, torch.tensor([0]), 2e4), Rejection.NORM),
        (lambda tensors: tensors[NAME].mul_(100), Rejection.NORM),
    ],
)
def test_wrong_tensors_are_refused_with_their_reason(change, code):
    assert code_of(changed(change)) == code


@pytest.mark.parametrize("kept", ["layers.0.", "mlp.down_proj", "layers.1.mlp.down_proj"])
def test_an_adapter_may_change_any_of_the_allowed_modules(kept):
    modules = {key: pair for key, pair in WEIGHTS.modules.items() if kept in key}
    part = dataclasses.replace(WEIGHTS, modules=modules)
    assert 0 < len(modules) < len(WEIGHTS.modules) and same_tensors(check_adapter(part.to_bytes(), SPEC), part)


def test_a_part_of_the_modules_is_checked_as_the_whole_is():
    pair = WEIGHTS.modules["layers.1.mlp.down_proj"]

    def part(a, b):
        return dataclasses.replace(WEIGHTS, modules={"layers.1.mlp.down_proj": LoraPair(a, b)}).to_bytes()

    check_adapter(part(pair.a, pair.b), SPEC)
    wide = torch.ones(9, pair.a.shape[1])
    assert code_of(part(wide, torch.ones(pair.b.shape[0], 9))) == Rejection.RANK
    assert code_of(part(pair.a[:, 1:].contiguous(), pair.b)) == Rejection.SHAPE
    assert code_of(part(pair.a * torch.nan, pair.b)) == Rejection.NOT_FINITE
    other = dataclasses.replace(IDENTITY, config_hash="d" * 64)
    with pytest.raises(IncompatibleBaseError):
        check_adapter(dataclasses.replace(WEIGHTS, modules={"layers.1.mlp.down_proj": pair}, base=other).to_bytes(), SPEC)


def test_extra_layers_and_extra_targets_are_refused():
    assert code_of(random_adapter(tiny_config(num_hidden_layers=3)).to_bytes()) == Rejection.KEYS
    assert code_of(random_adapter(CONFIG, ALL_TARGETS).to_bytes()) == Rejection.KEYS
    check_adapter(random_adapter(CONFIG, ALL_TARGETS).to_bytes(), AdapterSpec.from_config(CONFIG, ALL_TARGETS))


def test_a_smaller_hidden_size_is_refused():
    assert code_of(random_adapter(tiny_config(hidden_size=16)).to_bytes()) == Rejection.SHAPE


def test_the_rank_bound_is_inclusive():
    check_adapter(random_adapter(CONFIG, rank=8).to_bytes(), SPEC)
    assert code_of(random_adapter(CONFIG, rank=9).to_bytes()) == Rejection.RANK


def test_a_large_alpha_counts_as_a_large_change():
    check_adapter(random_adapter(CONFIG, alpha=6.0).to_bytes(), SPEC)
    assert code_of(random_adapter(CONFIG, alpha=600.0).to_bytes()) == Rejection.NORM


def test_header_checks_come_before_the_tensors_are_loaded(monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("tensors were loaded")

    wrong = [
        random_adapter(CONFIG, rank=9).to_bytes(),
        changed(lambda tensors: tensors.pop(NAME)),
        changed(lambda tensors: tensors.update({NAME: torch.ones(31, 3)})),
        WEIGHTS.to_bytes()[:-1],
    ]
    monkeypatch.setattr(container, "load", never)
    for data in wrong:
        code_of(data)


def test_unknown_targets_are_a_configuration_error():
    for targets in (("gate",), ()):
        with pytest.raises(ConfigError, match="Choose from"):
            AdapterSpec.from_config(CONFIG, targets)


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(1, 6), d_in=st.integers(1, 9), d_out=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_factored_norm_equals_the_dense_norm(rank, d_in, d_out, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
    assert frobenius_norm_of_product(a, b) == pytest.approx((b @ a).norm().item(), rel=1e-4)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_accepted_is_harmless(data):
    """Random damage is refused with a checkpoint error, or what comes out still meets every bound."""
    damaged = bytearray(WEIGHTS.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        weights = check_adapter(bytes(damaged), SPEC)
    except CheckpointError:
        return
    assert isinstance(weights, LoraWeights) and weights.base == IDENTITY and weights.rank == 3
    for key, pair in weights.modules.items():
        d_in, d_out = SPEC.shapes[key]
        assert pair.a.shape == (3, d_in) and pair.b.shape == (d_out, 3)
        assert max(pair.a.abs().max(), pair.b.abs().max()) <= SPEC.largest_value
