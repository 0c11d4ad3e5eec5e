"""Rows that decode together: each as if it were alone, whatever joins and leaves beside it."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch

from distilledprag.engine.backend import EmbeddedBackend, Limits
from distilledprag.engine.batch import DecodingBatch, Sampler, next_tokens, stacked_bytes
from distilledprag.engine.jobs import FairQueue, Job, Sampling
from distilledprag.lora import LoraBatch, LoraPair, LoraWeights, module_shapes
from distilledprag.lora.states import StateAdapter


@pytest.fixture(scope="module")
def adapters(tiny_base):
    return [adapter_of(tiny_base, 3, seed) for seed in range(2)]


@contextlib.contextmanager
def overwritten(base, prompt, states):
    """Every run of the whole sequence has the states behind the layer at the prompt's masks: written here by a loop."""
    masks = [place for place, id in enumerate(prompt) if id == base.mask_token_id]

    def hook(_, __, output):
        output = output.clone()
        for place, row in zip(masks, states.rows, strict=True):
            output[0, place] = row
        return output

    handle = base.model.model.layers[states.layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def alone(tiny_base, prompt, adapter, count):
    """Greedy tokens and their logits without a cache, one row."""
    from distilledprag.engine.batch import injected

    ids, logits = list(prompt), []
    of_states = isinstance(adapter, StateAdapter)
    applied = overwritten(tiny_base, prompt, adapter) if of_states else injected(tiny_base.model, [adapter])
    with torch.no_grad(), applied:
        for _ in range(count):
            logits.append(tiny_base.model(input_ids=torch.tensor([ids])).logits[0, -1].float())
            ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], torch.stack(logits)


def test_rows_that_join_and_leave_compute_what_each_computes_alone(tiny_base, adapters):
    torch.manual_seed(0)
    prompts = [torch.randint(5, 300, (size,)).tolist() for size in (7, 30, 3, 12)]
    chosen = [adapters[0], None, adapters[1], adapters[0]]
    wanted = [alone(tiny_base, prompt, adapter, 8) for prompt, adapter in zip(prompts, chosen, strict=True)]
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    made: list[list[torch.Tensor]] = [[] for _ in prompts]
    rows: list[int] = []
    joins, leaves = {0: [0, 1], 2: [2], 4: [3]}, {5: 0, 7: 2}
    for step in range(12):
        if step in leaves:
            kept = [place for place, row in enumerate(rows) if row != leaves[step]]
            rows = [rows[place] for place in kept]
            batch.keep(kept)
        if rows:
            logits = batch.step([int(made[row][-1].argmax()) for row in rows])
            for row, values in zip(rows, logits, strict=True):
                made[row].append(values)
        if new := joins.get(step):
            logits = batch.join([prompts[row] for row in new], [chosen[row] for row in new])
            for row, values in zip(new, logits, strict=True):
                made[row].append(values)
            rows += new
    for (tokens, logits), own in zip(wanted, made, strict=True):
        count = min(len(own), len(tokens))
        assert count >= 5
        torch.testing.assert_close(torch.stack(own[:count]), logits[:count], atol=1e-4, rtol=1e-4)
        assert [int(values.argmax()) for values in own[:count]] == tokens[:count]
    batch.clear()
    modules = [module for layer in tiny_base.model.model.layers for module in layer.mlp.modules()]
    assert len(batch) == 0 and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_adapters_change_their_own_rows_only(tiny_base, adapters):
    prompt = list(range(10, 20))
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    logits = batch.join([prompt, prompt, prompt], [None, adapters[0], adapters[1]])
    batch.clear()
    bare = alone(tiny_base, prompt, None, 1)[1][0]
    torch.testing.assert_close(logits[0], bare, atol=1e-5, rtol=1e-5)
    assert (logits[1] - bare).abs().max() > 1e-3 and (logits[1] - logits[2]).abs().max() > 1e-3


def adapter_of(base, rank, seed, scale=0.1, naming=False):
    """Random factors; `naming`: A and B are one-hot, so that entries are picked instead of multiplied."""
    random = torch.Generator().manual_seed(seed)
    modules = {}
    for key, (d_in, d_out) in module_shapes(base.model.config).items():
        a, b = torch.randn(rank, d_in, generator=random) * scale, torch.randn(d_out, rank, generator=random) * scale
        if naming:
            a = torch.nn.functional.one_hot(torch.arange(rank) * 3, d_in).float()
            b = torch.nn.functional.one_hot(torch.arange(rank) * 5, d_out).float().T.contiguous()
        modules[key] = LoraPair(a, b)
    return LoraWeights(modules, float(rank), base.identity, "")


@pytest.mark.parametrize("times", [1, 2])
def test_a_row_without_adapter_is_untouched_by_one_that_only_names_entries(tiny_base, times):
    prompt, naming = list(range(10, 20)), adapter_of(tiny_base, 2, 0, naming=True)
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    first = batch.join([prompt] * (1 + times), [None, *[naming] * times])
    second = batch.step([7] * (1 + times))
    batch.clear()
    bare = alone(tiny_base, prompt, None, 1)[1][0]
    torch.testing.assert_close(first[0], bare, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second[0], alone(tiny_base, [*prompt, 7], None, 1)[1][0], atol=1e-5, rtol=1e-5)
    assert (first[1] - bare).abs().max() > 1e-3


def test_one_large_adapter_does_not_make_the_others_as_large(tiny_base, monkeypatch):
    """Every row computes what it computes alone, in memory near that of the adapters themselves."""
    ranks = [256, 2, 2, 3, 1, 64, 2]
    chosen = [adapter_of(tiny_base, rank, seed, scale=0.3 / rank**0.5) for seed, rank in enumerate(ranks)]
    chosen += [None, chosen[0], chosen[1]]  # two are shared
    made, stack = [], LoraBatch.stack
    monkeypatch.setattr(LoraBatch, "stack", lambda adapters: made.append(stack(adapters)) or made[-1])
    prompt = list(range(10, 20))
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    logits = batch.join([prompt] * len(chosen), chosen)
    batch.clear()
    held = sum(factor.nbytes for one in made for pair in one.modules.values() for factor in pair)
    assert held <= stacked_bytes(chosen) <= 2 * sum(adapter.nbytes for adapter in chosen[: len(ranks)])
    for row, adapter in enumerate(chosen):
        torch.testing.assert_close(logits[row], alone(tiny_base, prompt, adapter, 1)[1][0], atol=1e-4, rtol=1e-4)


def test_adapters_that_are_too_large_together_are_decoded_one_after_the_other(tiny_base):
    adapters = [adapter_of(tiny_base, 16, seed) for seed in range(6)]
    most: dict[int, int] = {}
    for limit in (1, 3):
        events, sizes = [[] for _ in adapters], []
        limits = Limits(adapter_bytes=limit * adapters[0].nbytes)
        backend = EmbeddedBackend(tiny_base, frozenset({0}), limits, on_step=sizes.append)
        queue = FairQueue(100, 100)
        for adapter, listener in zip(adapters, events, strict=True):
            end = time.monotonic() + 60
            queue.put(Job("a", [10, 11, 12], 4, backend.prepare(adapter), Sampling(), end, listener.append))
        queue.close()
        backend.serve(queue)
        most[limit] = max(sizes)
        assert all(own[-1].error is None and own[-1].reason for own in events)
    assert most == {1: 1, 3: 3}


def states_of(base, count, layer, seed=0, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return StateAdapter(torch.randn(count, base.model.config.hidden_size, generator=random) * scale, layer, base.identity)


def masked_prompt(base, *parts):
    """Ids: of numbers so many ordinary tokens, of strings so many masks."""
    random = torch.Generator().manual_seed(len(parts))
    ids = []
    for part in parts:
        masks = isinstance(part, str)
        ids += [base.mask_token_id] * len(part) if masks else torch.randint(5, 300, (part,), generator=random).tolist()
    return ids


def test_rows_with_states_loras_and_none_compute_what_each_computes_alone(tiny_base, adapters):
    """States of every layer, also the last one, whose MLP the prefill computes at the prompt's end only."""
    hooks = [dict(layer._forward_hooks) for layer in tiny_base.model.model.layers]
    prompts = [
        masked_prompt(tiny_base, 4, "mmmmm", 9),
        masked_prompt(tiny_base, 2, "mm", 3, "mmm", 20),
        masked_prompt(tiny_base, 6, "mmm", 1),
        masked_prompt(tiny_base, 5, "m", 2),
        masked_prompt(tiny_base, 5, "mm", 2),
        masked_prompt(tiny_base, 12),
        masked_prompt(tiny_base, 3, "mmmm"),
    ]
    chosen = [
        states_of(tiny_base, 5, 1), states_of(tiny_base, 5, 0, 1), states_of(tiny_base, 3, 2, 2), adapters[0], None, adapters[1],
        states_of(tiny_base, 4, 2, 3),
    ]  # fmt: skip
    wanted = [alone(tiny_base, prompt, adapter, 6) for prompt, adapter in zip(prompts, chosen, strict=True)]
    bare = [alone(tiny_base, prompt, None, 1)[1][0] for prompt in prompts]
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    made = list(batch.join(prompts[:4], chosen[:4]).unsqueeze(1))
    made += batch.join(prompts[4:], chosen[4:]).unsqueeze(1)
    for step in range(1, 6):
        logits = batch.step([wanted[row][0][step - 1] for row in range(len(prompts))])
        made = [torch.cat([own, values.unsqueeze(0)]) for own, values in zip(made, logits, strict=True)]
    batch.clear()
    for own, (_, logits) in zip(made, wanted, strict=True):
        torch.testing.assert_close(own, logits, atol=1e-4, rtol=1e-4)
    changed = [(own[0] - without).abs().max() > 1e-3 for own, without in zip(made, bare, strict=True)]
    # States after the last layer reach nothing but their own positions: the answer sees them where a mask ends the prompt.
    assert changed == [True, True, False, True, False, True, True]
    assert [dict(layer._forward_hooks) for layer in tiny_base.model.model.layers] == hooks


def test_a_mask_that_an_answer_would_write_gets_no_state(tiny_base):
    """Only the prefill writes: a later token at a mask's id stays what the model makes of it."""
    prompt, states = masked_prompt(tiny_base, 4, "mmm", 5), states_of(tiny_base, 3, 1)
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    batch.join([prompt], [states])
    logits = batch.step([tiny_base.mask_token_id])
    batch.clear()
    with torch.no_grad(), overwritten(tiny_base, prompt, states):
        wanted = tiny_base.model(input_ids=torch.tensor([[*prompt, tiny_base.mask_token_id]])).logits[0, -1]
    torch.testing.assert_close(logits[0], wanted, atol=1e-4, rtol=1e-4)


def test_states_whose_rows_are_not_the_prompts_masks_are_refused_before_anything_runs(tiny_base):
    batch = DecodingBatch(tiny_base.model, tiny_base.mask_token_id)
    with pytest.raises(ValueError, match="3 masks, its adapter 4 rows"):
        batch.join([masked_prompt(tiny_base, 4, "mmm", 5)], [states_of(tiny_base, 4, 1)])
    assert len(batch) == 0


def test_tokens_are_drawn_from_their_own_rows_and_seeds():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.9], [5.0, 0.0, 0.0, 0.0], [0.0, torch.nan, 0.0, 0.0]])
    greedy = Sampler(Sampling())
    assert next_tokens(logits.clone(), [greedy] * 3, suppressed=[1]) == [3, 0, None]

    def draws(seed, **settings):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed, **settings))
        return [next_tokens(logits[:1].clone(), [sampler], [])[0] for _ in range(40)]

    assert draws(1) == draws(1) != draws(2)
    assert set(draws(3)) == {0, 1, 2, 3} or len(set(draws(3))) >= 3
    assert set(draws(3, top_p=0.5)) == {1, 3}, "the likeliest tokens that hold half of the probability"
    assert set(draws(3, top_p=0.0)) == {1}


def test_a_draw_is_the_same_whatever_is_drawn_beside_it():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3000, generator=random) * 2
    settings = [Sampling(1.0, seed=1), Sampling(), Sampling(0.7, 0.9, seed=2), Sampling(2.0, seed=3), Sampling(1.0, 0.5, seed=4)]

    def drawn(rows):
        samplers = [Sampler(settings[row]) for row in rows]
        return [next_tokens(logits[rows].clone(), samplers, suppressed=[7]) for _ in range(20)]

    together = drawn([0, 1, 2, 3, 4])
    for row in range(5):
        assert [tokens[0] for tokens in drawn([row])] == [tokens[row] for tokens in together]
    assert len({tokens[3] for tokens in together}) > 10


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(2000, 1)
    tokens = next_tokens(logits, [Sampler(Sampling(1.0, seed=seed)) for seed in range(2000)], suppressed=[])
    shares = torch.bincount(torch.tensor(tokens), minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.04, rtol=0)
    suppressed = next_tokens(logits, [Sampler(Sampling(1.0, seed=seed)) for seed in range(2000)], suppressed=[3, 0])
    assert set(suppressed) == {1, 2}


def test_a_temperature_too_small_for_single_precision_draws_the_likeliest():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    samplers = [Sampler(Sampling(temperature, seed=1)) for temperature in (1e-160, 5e-324, 1e-40)]
    assert next_tokens(logits.clone(), samplers, suppressed=[]) == logits.argmax(-1).tolist()
