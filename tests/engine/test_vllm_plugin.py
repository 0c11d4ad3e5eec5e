"""What our plugin computes inside vLLM, without vLLM; with it: test_vllm_real.py."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from distilledprag.engine.vllm_adapters import states_as_lora
from distilledprag.engine.vllm_plugin import MARK, States, expand, expand_slice, shrink
from distilledprag.errors import AdapterError
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.states import StateAdapter

MASK, FIRST, COUNT = 50, 51, 8
RANK, WIDTH, HIDDEN, SLOTS = 4, 6, 3, 3
IDENTITY = BaseIdentity("base", "0" * 64, "0" * 64)
KEY = "layers.1.mlp.down_proj"


@pytest.fixture
def states(tmp_path):
    (tmp_path / "distilledprag.json").write_text(json.dumps({"layer": 1, "first_numbered": FIRST, "masks": COUNT}))
    return States(str(tmp_path), MASK)


def down(slots, adapters):
    """vLLM's wrapped projection with LoRA weights in its slots, `slots` being those of the tokens."""
    a, b = torch.zeros(SLOTS, 1, RANK, WIDTH), torch.zeros(SLOTS, 1, HIDDEN, RANK)
    for slot, weights in adapters.items():
        pair = weights.modules[KEY]
        a[slot, 0, : pair.rank], b[slot, 0, :, : pair.rank] = pair.a, pair.b
    return SimpleNamespace(
        lora_a_stacked=(a,), lora_b_stacked=(b,), punica_wrapper=SimpleNamespace(token_lora_indices=torch.tensor(slots))
    )


def adapter(rows, layer=1):
    return states_as_lora(StateAdapter(rows, layer, IDENTITY), {KEY: (WIDTH, HIDDEN)})


def test_states_are_written_at_their_own_masks_of_their_own_requests(states):
    """Two requests with state adapters, one with a plain one, one without; ids padded by the server."""
    first, second = torch.randn(3, HIDDEN), torch.randn(2, HIDDEN)
    plain = adapter(torch.randn(4, HIDDEN))
    plain.modules[KEY].a.copy_(torch.randn(4, WIDTH))
    ids = torch.tensor([9, FIRST, FIRST + 2, 7, FIRST + 1, FIRST, FIRST + 1, FIRST, FIRST + 3, 0, 0])
    slots = [0, 0, 0, 2, 2, 2, 1, 1, -1]
    embedded = states.begin(ids, down(slots, {0: adapter(first), 1: plain, 2: adapter(second)}))
    assert embedded.tolist() == [9, MASK, MASK, 7, MASK, MASK, FIRST + 1, FIRST, FIRST + 3, 0, 0]
    hidden, residual = torch.randn(11, HIDDEN), torch.randn(11, HIDDEN)
    written, rest = states.write(hidden, residual)
    found, expected = written + rest, hidden + residual
    for place, row in ((1, first[0]), (2, first[2]), (4, second[1]), (5, second[0])):
        expected[place] = row
    assert torch.equal(found, expected)


def test_a_step_without_states_and_a_model_without_adapters_are_left_alone(states):
    ids, hidden, residual = torch.tensor([1, FIRST]), torch.randn(2, HIDDEN), torch.randn(2, HIDDEN)
    states.begin(torch.tensor([FIRST]), down([0], {0: adapter(torch.randn(1, HIDDEN))}))
    for module in (SimpleNamespace(), down([-1, -1], {}), down([1, 1], {0: adapter(torch.randn(1, HIDDEN))})):
        assert torch.equal(states.begin(ids, module), ids)
        assert [torch.equal(*pair) for pair in zip(states.write(hidden, residual), (hidden, residual), strict=True)] == [True] * 2


def test_the_mark_changes_nothing_by_itself_and_survives_bfloat16():
    rows = torch.randn(2, HIDDEN) * 100
    pair = adapter(rows).modules[KEY]
    outputs = torch.randn(5, HIDDEN)
    assert torch.equal(outputs + (torch.randn(5, WIDTH) * 1000 @ pair.a.T) @ pair.b.T, outputs)
    assert torch.equal(pair.a.bfloat16()[:, 0].float(), torch.full((2,), MARK)) and torch.equal(pair.b.T, rows)
    with pytest.raises(AdapterError, match="after layer 1"):
        adapter(rows, layer=2)


def test_products_by_slot_are_those_of_each_token_and_leave_tokens_without_an_adapter():
    slots = torch.tensor([1, 0, -1, 1, 2])
    inputs, a, b = torch.randn(5, WIDTH), torch.randn(SLOTS, 1, RANK, WIDTH), torch.randn(SLOTS, 1, HIDDEN, RANK)
    shrunk, before = torch.zeros(5, RANK + 1), torch.randn(5, HIDDEN + 2)
    shrink(inputs, a, shrunk, slots, 0.5)
    added, replaced = before.clone(), before.clone()
    expand(shrunk, b, added, slots)
    expand_slice(shrunk, b, replaced, slots, 1, HIDDEN, add_inputs=False)
    for place, slot in enumerate(slots.tolist()):
        if slot < 0:
            assert torch.equal(added[place], before[place]) and torch.equal(replaced[place], before[place])
            continue
        made = 0.5 * b[slot, 0] @ (a[slot, 0] @ inputs[place])
        torch.testing.assert_close(added[place, :HIDDEN], before[place, :HIDDEN] + made)
        torch.testing.assert_close(replaced[place, 1 : 1 + HIDDEN], made)
        assert torch.equal(replaced[place, [0, -1]], before[place, [0, -1]])
