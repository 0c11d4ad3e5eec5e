"""What a batch of injected adapters may and may not do: rows, beams, caches, dtypes, and leaving no trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_examples import (
    ALL_TARGETS,
    ARCHITECTURES,
    IDENTITY,
    logits_of,
    random_adapter,
    random_tokens,
    state_bytes,
    tiny_config,
    tiny_model,
)
from torch.utils._python_dispatch import TorchDispatchMode

from distilledprag.errors import IncompatibleBaseError
from distilledprag.lora import (
    MLP_TARGETS,
    LoraBatch,
    LoraPair,
    LoraWeights,
    inject,
    inject_parts,
    merge_into,
    merged,
    module_shapes,
)

MODEL = tiny_model()
ADAPTERS = [
    random_adapter(MODEL.config, seed=1),
    None,
    random_adapter(MODEL.config, seed=2, rank=1, alpha=1.0),
    random_adapter(MODEL.config, ALL_TARGETS, seed=3, rank=5),
]
TOKENS = random_tokens(rows=len(ADAPTERS))


def hooks_in(model):
    return [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def alone(row):
    """Logits of one row of TOKENS under its own adapter, computed by itself."""
    with inject(MODEL, LoraBatch.stack([ADAPTERS[row]])):
        return logits_of(MODEL, TOKENS[row : row + 1])[0]


ALONE = [alone(row) for row in range(len(ADAPTERS))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mixed_batch_equals_each_row_alone(architecture):
    model = tiny_model(architecture)
    adapters = [random_adapter(model.config, ALL_TARGETS, seed=seed) for seed in range(3)]
    adapters.insert(1, None)
    tokens = random_tokens(rows=4)
    with inject(model, LoraBatch.stack(adapters)):
        together = logits_of(model, tokens)
    for row, adapter in enumerate(adapters):
        with inject(model, LoraBatch.stack([adapter])):
            torch.testing.assert_close(together[row : row + 1], logits_of(model, tokens[row : row + 1]))


def test_a_row_without_adapter_equals_the_plain_model():
    torch.testing.assert_close(ALONE[1], logits_of(MODEL, TOKENS[1:2])[0], rtol=0, atol=0)


def test_adapters_of_other_rank_alpha_and_targets_share_a_batch():
    with inject(MODEL, LoraBatch.stack(ADAPTERS)):
        torch.testing.assert_close(logits_of(MODEL, TOKENS), torch.stack(ALONE), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(-1, len(ADAPTERS) - 1), min_size=1, max_size=6))
def test_row_index_gives_each_model_row_its_adapter(rows):
    tokens = torch.stack([TOKENS[row] for row in rows])  # row -1 reads the last row of TOKENS, without adapter
    with inject(MODEL, LoraBatch.stack(ADAPTERS), row_index=torch.tensor(rows)):
        together = logits_of(MODEL, tokens)
    without = logits_of(MODEL, TOKENS[-1:])[0]
    expected = torch.stack([ALONE[row] if row >= 0 else without for row in rows])
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def naming_adapter(model, rank=3):
    """Every A and B only name entries: each rank copies one entry of x to one of the output."""
    modules = {}
    for key, (d_in, d_out) in module_shapes(model.config, MLP_TARGETS).items():
        a = torch.nn.functional.one_hot(torch.arange(rank) * 5, d_in).float()
        b = torch.nn.functional.one_hot(torch.arange(rank) * 7 + 1, d_out).float().T.contiguous()
        modules[key] = LoraPair(a, b)
    return LoraWeights(modules, float(rank), IDENTITY, "")


@pytest.mark.parametrize("rows", [[-1, 0, -1, 0], [-1, -1, -1, -1], [1, -1, 0, 1]])
def test_rows_without_adapter_are_untouched_by_one_whose_factors_only_name_entries(rows):
    naming = naming_adapter(MODEL)
    batch = LoraBatch.stack([naming, naming])
    plain = logits_of(MODEL, TOKENS)
    with inject(MODEL, batch, row_index=torch.tensor(rows)):
        together = logits_of(MODEL, TOKENS)
    with inject(MODEL, LoraBatch.stack([naming])):
        changed = logits_of(MODEL, TOKENS)
    assert (changed - plain).abs().amax(dim=(1, 2)).min() > 1e-2, "the adapter must change what it is given to"
    for row, adapter in enumerate(rows):
        torch.testing.assert_close(together[row], (plain if adapter < 0 else changed)[row], rtol=1e-5, atol=1e-5)


def test_several_batches_serve_their_own_rows_at_once():
    batches = [LoraBatch.stack([adapter]) for adapter in ADAPTERS if adapter is not None]
    parts = [(batches[0], [0, -1, -1, -1]), (batches[1], [-1, -1, 0, -1]), (batches[2], [-1, -1, -1, 0])]
    with inject_parts(MODEL, [(batch, torch.tensor(rows)) for batch, rows in parts]):
        together = logits_of(MODEL, TOKENS)
    torch.testing.assert_close(together, torch.stack(ALONE), rtol=1e-5, atol=1e-5)
    assert hooks_in(MODEL) == []


def test_gradients_reach_only_the_adapters_of_rows_that_have_one():
    batch = LoraBatch.stack([ADAPTERS[0], ADAPTERS[2]])
    for a, b in batch.modules.values():
        a.requires_grad_()
        b.requires_grad_()
    with inject(MODEL, batch, row_index=torch.tensor([-1, 1, -1, 1])):
        logits = MODEL(TOKENS).logits
    torch.testing.assert_close(logits[0], logits_of(MODEL, TOKENS)[0])
    logits.square().mean().backward()
    a, b = batch.modules["layers.0.mlp.up_proj"]
    assert [bool(factor.grad[row].any()) for factor in (a, b) for row in (0, 1)] == [False, True, False, True]


def test_one_adapter_serves_every_row_when_no_row_index_is_given():
    with inject(MODEL, LoraBatch.stack(ADAPTERS[:1])):
        torch.testing.assert_close(logits_of(MODEL, TOKENS[:1].expand(3, -1))[2], ALONE[0])


def test_a_batch_of_nothing_changes_nothing():
    plain = logits_of(MODEL, TOKENS)
    with inject(MODEL, LoraBatch.stack([None, None])):
        assert torch.equal(logits_of(MODEL, TOKENS), plain)


def test_greedy_generation_with_a_cache_equals_each_merged_model():
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with inject(MODEL, LoraBatch.stack(ADAPTERS)):
        together = MODEL.generate(TOKENS, use_cache=True, **settings)
    assert together.shape == (4, TOKENS.shape[1] + 8)
    plain = MODEL.generate(TOKENS, use_cache=False, **settings)
    for row, adapter in enumerate(ADAPTERS):
        if adapter is None:
            assert torch.equal(together[row], plain[row])
            continue
        with merged(MODEL, adapter):
            expected = MODEL.generate(TOKENS[row : row + 1], use_cache=False, **settings)[0]
        assert torch.equal(together[row], expected)
        assert not torch.equal(together[row], plain[row])


def test_beam_search_follows_row_index():
    settings = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3, "pad_token_id": 0}
    rows = torch.arange(len(ADAPTERS)).repeat_interleave(3)
    with inject(MODEL, LoraBatch.stack(ADAPTERS), row_index=rows):
        together = MODEL.generate(TOKENS, **settings)
    for row, adapter in enumerate(ADAPTERS):
        with inject(MODEL, LoraBatch.stack([adapter])):
            assert torch.equal(together[row], MODEL.generate(TOKENS[row : row + 1], **settings)[0])


@pytest.mark.parametrize("fails", [False, True], ids=["well", "with an exception"])
@pytest.mark.parametrize("kind", ["inject", "merged"])
def test_the_model_is_bit_identical_after_the_block_ends(fails, kind):
    model = tiny_model()
    before, logits = state_bytes(model), logits_of(model, TOKENS)
    adapter = ADAPTERS[3]
    block = inject(model, LoraBatch.stack([adapter])) if kind == "inject" else merged(model, adapter)
    try:
        with block:
            assert not torch.equal(logits_of(model, TOKENS), logits)
            if fails:
                raise KeyError("something else went wrong")
    except KeyError:
        pass
    assert state_bytes(model) == before
    assert hooks_in(model) == []
    assert torch.equal(logits_of(model, TOKENS), logits)


def test_injection_never_changes_a_weight_even_inside_the_block():
    before = state_bytes(MODEL)
    with inject(MODEL, LoraBatch.stack(ADAPTERS)):
        logits_of(MODEL, TOKENS)
        assert state_bytes(MODEL) == before


def test_nested_use_is_refused_and_the_outer_block_goes_on():
    batch = LoraBatch.stack(ADAPTERS)
    with inject(MODEL, batch):
        with pytest.raises(RuntimeError, match="already has adapters"), inject(MODEL, batch):
            pass
        with pytest.raises(RuntimeError, match="already has adapters"), inject(MODEL.model, batch):
            pass
        with pytest.raises(RuntimeError, match="already has adapters"), merged(MODEL, ADAPTERS[0]):
            pass
        with pytest.raises(RuntimeError, match="already has adapters"):
            merge_into(MODEL, ADAPTERS[0])
        torch.testing.assert_close(logits_of(MODEL, TOKENS), torch.stack(ALONE), rtol=1e-5, atol=1e-5)
    with inject(MODEL, batch):
        pass


def test_two_models_can_be_injected_at_once():
    other = tiny_model(seed=7)
    with inject(MODEL, LoraBatch.stack(ADAPTERS)), inject(other, LoraBatch.stack(ADAPTERS[:1])):
        torch.testing.assert_close(logits_of(MODEL, TOKENS), torch.stack(ALONE), rtol=1e-5, atol=1e-5)


def test_a_wrong_number_of_rows_says_what_to_do():
    with inject(MODEL, LoraBatch.stack(ADAPTERS)), pytest.raises(ValueError, match="row_index"):
        logits_of(MODEL, TOKENS[:3])
    one = LoraBatch.stack(ADAPTERS[:1])
    with inject(MODEL, one, row_index=torch.tensor([0])), pytest.raises(ValueError, match="row_index"):
        logits_of(MODEL, TOKENS)


@pytest.mark.parametrize("rows", [[4], [-2], [[0, 1]], [0.0], [True]])
def test_a_wrong_row_index_is_refused_before_the_model_runs(rows):
    with (
        pytest.raises(ValueError, match="row_index"),
        inject(MODEL, LoraBatch.stack(ADAPTERS), torch.tensor(rows)),
    ):
        pass


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 64}, {"intermediate_size": 48}, {"num_hidden_layers": 3}],
    ids=lambda change: str(change),
)
def test_an_adapter_of_another_model_is_refused_and_leaves_no_hooks(change):
    adapter = random_adapter(tiny_config(**change))
    with (
        pytest.raises(IncompatibleBaseError, match="Load the base model"),
        inject(MODEL, LoraBatch.stack([adapter])),
    ):
        pass
    before = state_bytes(MODEL)
    with pytest.raises(IncompatibleBaseError, match="Load the base model"):
        merge_into(MODEL, adapter)
    assert hooks_in(MODEL) == []
    assert state_bytes(MODEL) == before


def test_something_that_is_no_language_model_is_refused():
    with (
        pytest.raises(IncompatibleBaseError, match="Linear has no"),
        inject(torch.nn.Linear(2, 2), LoraBatch.stack(ADAPTERS)),
    ):
        pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_takes_float32_adapters(dtype):
    model = tiny_model().to(dtype)
    with inject(model, LoraBatch.stack(ADAPTERS)):
        logits = logits_of(model, TOKENS)
    assert logits.dtype == dtype
    expected, plain = torch.stack(ALONE), logits_of(MODEL, TOKENS)
    error, effect = (logits.float() - expected).norm(), (expected - plain).norm()
    assert error < 0.05 * effect


def test_gradients_of_a_bfloat16_model_arrive_in_the_adapters_own_dtype():
    model = tiny_model().to(torch.bfloat16)
    batch = LoraBatch.stack(ADAPTERS)
    for a, b in batch.modules.values():
        a.requires_grad_()
        b.requires_grad_()
    with inject(model, batch, row_index=torch.tensor([0, 0, 3, -1])):
        model(TOKENS).logits.float().square().mean().backward()
    a, _ = batch.modules["layers.0.mlp.up_proj"]
    assert a.grad.dtype == torch.float32
    used = a.grad.flatten(1).abs().amax(1) > 0
    assert used.tolist() == [True, False, False, True], "only the adapters that rows use get a gradient"


def test_training_steps_inside_one_block_see_the_updated_adapter():
    batch = LoraBatch.stack(ADAPTERS[:1])
    factors = [factor.requires_grad_() for pair in batch.modules.values() for factor in pair]
    optimizer = torch.optim.SGD(factors, lr=0.05)
    losses = []
    with inject(MODEL, batch, row_index=torch.zeros(4, dtype=torch.int32)):
        for _ in range(4):
            loss = torch.nn.functional.cross_entropy(MODEL(TOKENS).logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]


def test_gradient_checkpointing_gives_the_same_gradients_when_backward_runs_inside():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        batch = LoraBatch.stack(ADAPTERS)
        a, _ = batch.modules["layers.0.mlp.up_proj"]
        a.requires_grad_()
        with inject(model, batch):
            model(TOKENS, use_cache=False).logits.square().mean().backward()
        gradients.append(a.grad)
    torch.testing.assert_close(*gradients)


class LargestProducts(TorchDispatchMode):
    """Collects the shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if any(name in str(operation) for name in ("mm", "matmul", "einsum", "linear")):
            self.shapes.add(tuple(result.shape[-2:]))
        return result


def test_no_dense_weight_change_is_ever_formed():
    with LargestProducts() as products, inject(MODEL, LoraBatch.stack(ADAPTERS)):
        logits_of(MODEL, TOKENS)
    weights = {tuple(module.weight.shape) for module in MODEL.model.modules() if isinstance(module, torch.nn.Linear)}
    assert products.shapes, "the products must be seen for this test to mean anything"
    assert not products.shapes & (weights | {shape[::-1] for shape in weights})
