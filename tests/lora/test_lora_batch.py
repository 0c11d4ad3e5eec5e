"""Stacking adapters into a batch and taking them out again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_examples import ALL_TARGETS, IDENTITY, random_adapter, same_tensors, tiny_config

from distilledprag.errors import IncompatibleBaseError
from distilledprag.lora import MLP_TARGETS, AdapterError, LoraBatch

CONFIG = tiny_config()


def change_of(batch, key, row):
    """The dense change of one module that row `row` of the batch stands for."""
    a, b = batch.modules[key]
    return batch.scaling * b[row] @ a[row]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.none() | st.tuples(st.integers(1, 4), st.sampled_from([1.0, 2.5, 8.0]), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_a_batch_means_the_same_changes_as_its_adapters(rows):
    adapters = [
        None if row is None else random_adapter(CONFIG, ALL_TARGETS if row[2] else MLP_TARGETS, row[0], row[1], seed)
        for seed, row in enumerate(rows)
    ]
    batch = LoraBatch.stack(adapters)
    assert batch.size == (len(rows) if any(rows) else 0)
    for key in batch.modules:
        for row, adapter in enumerate(adapters):
            change = change_of(batch, key, row)
            if adapter is None or key not in adapter.modules:
                assert not change.any()
            else:
                pair = adapter.modules[key]
                torch.testing.assert_close(change, adapter.alpha / adapter.rank * pair.b @ pair.a)


def test_adapters_come_out_as_they_went_in():
    for rank, alpha in ((1, 1.0), (7, 3.0), (8, 16.0), (3, 0.1)):
        adapters = [random_adapter(CONFIG, rank=rank, alpha=alpha, seed=seed) for seed in range(3)]
        out = LoraBatch.stack(adapters).unstack(IDENTITY, "example-generator")
        assert [one.alpha for one in out] == pytest.approx([alpha] * 3, rel=1e-12)
        if float(alpha).is_integer():
            assert all(same_tensors(*both) for both in zip(adapters, out, strict=True))


def test_equal_strengths_keep_the_factors_untouched():
    adapters = [random_adapter(CONFIG, rank=2, alpha=4.0), random_adapter(CONFIG, rank=4, alpha=8.0)]
    batch = LoraBatch.stack(adapters)
    assert batch.scaling == 2.0
    a, b = batch.modules["layers.0.mlp.up_proj"]
    assert torch.equal(b[1], adapters[1].modules["layers.0.mlp.up_proj"].b)
    assert not a[0, 2:].any() and not b[0, :, 2:].any(), "the missing ranks are zeros"


def test_gradients_flow_through_stack_and_to():
    adapters = [random_adapter(CONFIG, rank=rank) for rank in (1, 2)]
    leaf = adapters[0].modules["layers.0.mlp.up_proj"].b.requires_grad_()
    batch = LoraBatch.stack(adapters).to(dtype=torch.float64)
    batch.modules["layers.0.mlp.up_proj"][1].sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(leaf, adapters[0].scaling))
    assert not batch.unstack(IDENTITY, "")[0].modules["layers.0.mlp.up_proj"].b.requires_grad


def test_mixed_dtypes_are_promoted():
    adapters = [random_adapter(CONFIG).to(dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    assert LoraBatch.stack(adapters).modules["layers.0.mlp.up_proj"][0].dtype == torch.float32


def test_adapters_of_two_base_models_are_not_stacked():
    other = dataclasses.replace(IDENTITY, id="example/other", mask_row_hash="n" * 64)
    with pytest.raises(IncompatibleBaseError, match=r"example/other.*example/base"):
        LoraBatch.stack([random_adapter(CONFIG), None, random_adapter(CONFIG, base=other)])


def test_parts_that_do_not_fit_are_refused():
    a, b = torch.ones(2, 3, 4), torch.ones(2, 5, 3)
    for modules in (
        {"layers.0.mlp.up_proj": (a, b[:1])},
        {"layers.0.mlp.up_proj": (a[0], b[0])},
        {"layers.0.mlp.up_proj": (a, b), "layers.1.mlp.up_proj": (a[:1], b[:1])},
        {"up_proj": (a, b)},
    ):
        with pytest.raises(AdapterError):
            LoraBatch(modules, 1.0)
    two_ranks = {"layers.0.mlp.up_proj": (a, b), "layers.1.mlp.up_proj": (a[:, :1], b[:, :, :1])}
    with pytest.raises(AdapterError, match="share one rank"):
        LoraBatch(two_ranks, 1.0).unstack(IDENTITY, "")
    with pytest.raises(AdapterError, match="different sizes"):
        LoraBatch.stack([random_adapter(CONFIG), random_adapter(tiny_config(intermediate_size=40))])
