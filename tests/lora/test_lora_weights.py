"""The record that travels: round trips, what construction refuses, and folders that survive crashes."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pickle
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_examples import ALL_TARGETS, IDENTITY, random_adapter, record_of, same_tensors, tiny_config
from safetensors import safe_open
from safetensors.torch import load, save

import distilledprag.lora
from distilledprag.base.architecture import is_module_key, module_key, split_module_key
from distilledprag.errors import CheckpointError
from distilledprag.lora import AdapterError, BaseIdentity, LoraPair, LoraWeights, Rejection

CONFIG = tiny_config()
WEIGHTS = random_adapter(CONFIG)
NAME = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


def resaved(data: bytes, change) -> bytes:
    """The same file after `change(tensors)`, the record kept."""
    tensors, length = load(data), int.from_bytes(data[:8], "little")
    change(tensors)
    return save(tensors, metadata=json.loads(data[8 : 8 + length])["__metadata__"])


def code_of(data: bytes) -> Rejection:
    with pytest.raises(AdapterError) as caught:
        LoraWeights.from_bytes(data)
    assert isinstance(caught.value, CheckpointError)
    return caught.value.code


@settings(max_examples=30, deadline=None)
@given(
    rank=st.integers(1, 7),
    alpha=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    targets=st.lists(st.sampled_from(ALL_TARGETS), min_size=1, unique=True),
    seed=st.integers(0, 1000),
)
def test_bytes_carry_every_bit_of_an_adapter(rank, alpha, dtype, targets, seed):
    weights = random_adapter(CONFIG, tuple(targets), rank=rank, alpha=alpha, seed=seed).to(dtype=dtype)
    data = weights.to_bytes()
    assert same_tensors(LoraWeights.from_bytes(data), weights)
    assert data == LoraWeights.from_bytes(data).to_bytes(), "equal adapters, equal bytes"


@pytest.mark.parametrize("alpha", [6.0, 2.5])
def test_a_folder_carries_every_bit_of_an_adapter(tmp_path, alpha):
    weights = random_adapter(CONFIG, ALL_TARGETS, alpha=alpha).to(dtype=torch.bfloat16)
    weights.save_pretrained(tmp_path / "new" / "adapter")
    assert same_tensors(LoraWeights.from_pretrained(tmp_path / "new" / "adapter"), weights)


def test_the_folder_is_what_peft_and_servers_expect(tmp_path):
    WEIGHTS.save_pretrained(tmp_path / "adapter")
    assert sorted(os.listdir(tmp_path / "adapter")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "distilledprag.json",
    ]
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (3, 6, "example/base")
    assert isinstance(config.lora_alpha, int), "some readers insist on a whole number"
    assert set(config.target_modules) == {"gate_proj", "up_proj", "down_proj"}
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert set(file.keys()) == {
            f"base_model.model.model.layers.{layer}.mlp.{target}.lora_{factor}.weight"
            for layer in (0, 1)
            for target in ("gate_proj", "up_proj", "down_proj")
            for factor in "AB"
        }
        record = json.loads(file.metadata()["distilledprag"])
    assert record == json.loads((tmp_path / "adapter" / "distilledprag.json").read_text())
    assert record == {
        "format": 1,
        "alpha": 6.0,
        "rank": 3,
        "base": IDENTITY.to_dict(),
        "generator": "example-generator",
    }


def test_slices_of_one_batch_tensor_can_be_written():
    big_a, big_b = torch.randn(2, 3, 32), torch.randn(2, 56, 3)
    weights = LoraWeights({"layers.0.mlp.up_proj": LoraPair(big_a[1], big_b[1])}, 3.0, IDENTITY, "")
    transposed = LoraPair(torch.randn(32, 3).T, torch.randn(3, 56).T)
    for written in (weights, LoraWeights({"layers.0.mlp.up_proj": transposed}, 3.0, IDENTITY, "")):
        assert same_tensors(LoraWeights.from_bytes(written.to_bytes()), written)


def test_sizes_strength_and_order_are_as_documented():
    assert (WEIGHTS.rank, WEIGHTS.scaling) == (3, 2.0)
    assert WEIGHTS.nbytes == 2 * 3 * 3 * (32 + 56) * 4  # layers * modules * rank * (d_in + d_out) * bytes
    assert WEIGHTS.to(dtype=torch.bfloat16).nbytes == WEIGHTS.nbytes // 2
    shuffled = LoraWeights(dict(reversed(WEIGHTS.modules.items())), 6.0, IDENTITY, "example-generator")
    assert list(shuffled.modules)[:3] == [f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert shuffled.to_bytes() == WEIGHTS.to_bytes()


def test_without_idle_ranks_keeps_what_any_module_uses_and_the_strength():
    pairs = {key: LoraPair(pair.a.clone(), pair.b.clone()) for key, pair in WEIGHTS.modules.items()}
    first, *others = pairs.values()
    for pair in pairs.values():
        pair.a[2] = 0
    for pair in others:
        pair.b[:, 0] = 0  # rank 0 is used by the first module only
    smaller = LoraWeights(pairs, 6.0, IDENTITY, "").without_idle_ranks()
    assert (smaller.rank, smaller.scaling) == (2, 2.0)
    for key, pair in smaller.modules.items():
        torch.testing.assert_close(pair.b @ pair.a, pairs[key].b @ pairs[key].a)
    assert torch.equal(smaller.modules["layers.0.mlp.gate_proj"].a, first.a[:2])
    assert same_tensors(WEIGHTS.without_idle_ranks(), WEIGHTS)
    for pair in pairs.values():
        pair.b.zero_()
    assert LoraWeights(pairs, 6.0, IDENTITY, "").without_idle_ranks().rank == 1


def test_a_blank_adapter_has_the_header_of_one_of_its_rank():
    blank, same = WEIGHTS.blank(5), random_adapter(CONFIG, rank=5, alpha=10.0)
    assert blank.rank == 5 and blank.scaling == WEIGHTS.scaling
    data = blank.to_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert data[:header] == LoraWeights(same.modules, 10.0, WEIGHTS.base, WEIGHTS.generator).to_bytes()[:header]
    assert not any(pair.a.any() or pair.b.any() for pair in blank.modules.values())


def test_an_adapter_is_frozen_and_crosses_processes():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WEIGHTS.alpha = 1.0
    assert same_tensors(pickle.loads(pickle.dumps(WEIGHTS)), WEIGHTS)
    error = pickle.loads(pickle.dumps(AdapterError(Rejection.NORM, "too large")))
    assert (error.code, str(error)) == (Rejection.NORM, "too large")


PAIR = LoraPair(torch.ones(2, 4), torch.ones(6, 2))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: LoraPair(torch.ones(2, 4), torch.ones(6, 3)), Rejection.SHAPE),
        (lambda: LoraPair(torch.ones(1, 2, 4), torch.ones(6, 2)), Rejection.SHAPE),
        (lambda: LoraPair(torch.ones(0, 4), torch.ones(6, 0)), Rejection.SHAPE),
        (lambda: LoraPair(torch.ones(2, 4).int(), torch.ones(6, 2)), Rejection.DTYPE),
        (lambda: LoraWeights({"model.layers.0.mlp.up_proj": PAIR}, 1.0, IDENTITY, ""), Rejection.KEYS),
        (lambda: LoraWeights({"../../etc/passwd": PAIR}, 1.0, IDENTITY, ""), Rejection.KEYS),
        (lambda: LoraWeights({}, 1.0, IDENTITY, ""), Rejection.RANK),
        (
            lambda: LoraWeights(
                {
                    "layers.0.mlp.up_proj": PAIR,
                    "layers.1.mlp.up_proj": LoraPair(torch.ones(1, 4), torch.ones(6, 1)),
                },
                1.0,
                IDENTITY,
                "",
            ),
            Rejection.RANK,
        ),
        (lambda: LoraWeights({"layers.0.mlp.up_proj": PAIR}, 0.0, IDENTITY, ""), Rejection.RECORD),
        (lambda: LoraWeights({"layers.0.mlp.up_proj": PAIR}, float("nan"), IDENTITY, ""), Rejection.RECORD),
        (lambda: LoraWeights({"layers.0.mlp.up_proj": PAIR}, 1.0, IDENTITY, "x" * 1000), Rejection.RECORD),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, code):
    with pytest.raises(AdapterError) as caught:
        make()
    assert caught.value.code == code


def test_damaged_bytes_are_refused_with_their_reason():
    data = WEIGHTS.to_bytes()
    assert code_of(data[:-1]) == Rejection.TRUNCATED
    assert code_of(data[:100]) == Rejection.TRUNCATED
    assert code_of(b"") == Rejection.TRUNCATED
    assert code_of(data + b"x") == Rejection.MALFORMED
    assert code_of(b"PK\x03\x04pickle.." + b"\x00" * 200) == Rejection.HEADER_TOO_LONG
    assert code_of(resaved(data, lambda tensors: tensors[NAME].fill_(float("nan")))) == Rejection.NOT_FINITE
    assert code_of(resaved(data, lambda tensors: tensors.pop(NAME))) == Rejection.KEYS
    assert code_of(resaved(data, lambda tensors: tensors.clear())) == Rejection.KEYS
    assert code_of(resaved(data, lambda tensors: tensors.update(extra=torch.ones(1)))) == Rejection.KEYS
    narrow = tuple(torch.zeros(shape) for shape in ((4, 32), (56, 4)))
    other_rank = LoraWeights({"layers.0.mlp.up_proj": LoraPair(*narrow)}, 1.0, IDENTITY, "")
    assert code_of(save(load(other_rank.to_bytes()), {"distilledprag": record_of(WEIGHTS.to_bytes())})) == Rejection.RANK
    assert code_of(resaved(data, lambda tensors: tensors.update({NAME: tensors[NAME].int()}))) == Rejection.DTYPE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_checkpoint_error_or_an_adapter(data):
    good = bytearray(WEIGHTS.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, 2500))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))
    try:
        assert LoraWeights.from_bytes(bytes(good[:cut])).nbytes > 0
    except CheckpointError as error:
        assert len(str(error)) > 40


@pytest.mark.parametrize(
    "record",
    [
        "{}",
        "not json",
        "[" * 50_000,
        json.dumps({"format": 2, "alpha": 1, "rank": 3, "base": IDENTITY.to_dict(), "generator": ""}),
        json.dumps({"format": 1, "alpha": "1", "rank": 3, "base": IDENTITY.to_dict(), "generator": ""}),
        json.dumps({"format": 1, "alpha": 10**400, "rank": 3, "base": IDENTITY.to_dict(), "generator": ""}),
        json.dumps({"format": 1, "alpha": float("inf"), "rank": 3, "base": IDENTITY.to_dict(), "generator": ""}),
        json.dumps({"format": 1, "alpha": 1, "rank": True, "base": IDENTITY.to_dict(), "generator": ""}),
        json.dumps({"format": 1, "alpha": 1, "rank": 3, "base": {"id": "x"}, "generator": ""}),
        json.dumps({"format": 1, "alpha": 1, "rank": 3, "base": {**IDENTITY.to_dict(), "id": 5}, "generator": ""}),
        json.dumps({"format": 1, "alpha": 1, "rank": 3, "base": IDENTITY.to_dict(), "generator": "", "x": 1}),
    ],
)
def test_a_wrong_record_is_refused(record):
    assert code_of(save(load(WEIGHTS.to_bytes()), {"distilledprag": record})) == Rejection.RECORD
    assert code_of(save(load(WEIGHTS.to_bytes()))) == Rejection.RECORD


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "distilledprag.json"])
def test_a_missing_or_empty_file_is_named(tmp_path, name):
    WEIGHTS.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="adapter"):
        LoraWeights.from_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        LoraWeights.from_pretrained(tmp_path / "adapter")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        LoraWeights.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("rank_pattern", {"up_proj": 2}),
        ("lora_alpha", 12),
        ("r", 2),
    ],
)
def test_a_configuration_that_acts_otherwise_is_refused(tmp_path, setting, value):
    WEIGHTS.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), setting: value}))
    with pytest.raises(CheckpointError, match=setting):
        LoraWeights.from_pretrained(tmp_path / "adapter")


def test_files_of_two_adapters_are_not_mixed(tmp_path):
    WEIGHTS.save_pretrained(tmp_path / "one")
    dataclasses.replace(WEIGHTS, generator="another").save_pretrained(tmp_path / "two")
    name = "distilledprag.json"
    (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(AdapterError, match="two adapters"):
        LoraWeights.from_pretrained(tmp_path / "one")


def test_a_crash_while_writing_leaves_the_old_adapter(tmp_path, monkeypatch):
    WEIGHTS.save_pretrained(tmp_path / "adapter")
    real_write = Path.write_bytes

    def fail(path, data):
        real_write(path, data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        random_adapter(CONFIG, seed=9).save_pretrained(tmp_path / "adapter")
    monkeypatch.undo()
    assert same_tensors(LoraWeights.from_pretrained(tmp_path / "adapter"), WEIGHTS)
    assert os.listdir(tmp_path) == ["adapter"]


def test_saving_replaces_an_adapter_but_never_other_files(tmp_path):
    random_adapter(CONFIG, seed=9).save_pretrained(tmp_path / "adapter")
    WEIGHTS.save_pretrained(tmp_path / "adapter")
    assert same_tensors(LoraWeights.from_pretrained(tmp_path / "adapter"), WEIGHTS)
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.docx"):
        WEIGHTS.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        WEIGHTS.save_pretrained(tmp_path / "thesis.docx")
    assert (tmp_path / "thesis.docx").read_text() == "years of work"


def test_module_keys_are_read_back_as_written():
    for layer in (0, 7, 126):
        for target in ALL_TARGETS:
            assert split_module_key(module_key(layer, target)) == (layer, target)
    for key in ("layers.01.mlp.up_proj", "layers.-1.mlp.up_proj", "layers.0.self_attn.up_proj", "lm_head",
                "layers.0.mlp.up_proj\n", "layers.99999.mlp.up_proj"):  # fmt: skip
        assert not is_module_key(key)


def test_identities_are_bounded_text():
    for id in ("x" * 10_000, "a line\nand a forged one", "\ud800", None):
        with pytest.raises(CheckpointError, match="at most"):
            BaseIdentity(id=id, config_hash="", mask_row_hash="")
        with pytest.raises(CheckpointError, match="at most"):
            dataclasses.replace(WEIGHTS, generator=id)
    assert BaseIdentity(id="modèle/基礎", config_hash="", mask_row_hash="").id == "modèle/基礎"


def test_the_room_imports_only_errors_files_and_architecture_and_peft_only_lazily():
    for file in Path(distilledprag.lora.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in nodes:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert getattr(node, "level", 0) == 0, f"{file.name} imports relatively"
            for name in names:
                first, _, rest = name.partition(".")
                allowed = rest == "base.architecture" or rest.split(".")[0] in ("errors", "files", "lora")
                assert first != "distilledprag" or allowed, (file.name, name)
                assert first not in ("peft", "transformers") or node not in tree.body, (file.name, name)
