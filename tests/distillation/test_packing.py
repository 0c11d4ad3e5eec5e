"""Packed questions are computed as if each stood alone; supervised are exactly the answers."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from distilledprag.distillation.question_packing import IGNORED, collate, exact_rows, pack
from distilledprag.prompts import Prompt

CONTEXT = Prompt([10, 11, 12, 13], [10, 9, 9, 13], [False, True, True, False])


def tiny_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=64, num_attention_heads=2, num_key_value_heads=2, **sizes)).eval()


def test_supervised_positions_are_those_that_predict_answer_tokens():
    row = pack(CONTEXT, [([20, 21], [30, 31, 2]), ([22], [33, 2])])
    assert row.open_ids == [10, 11, 12, 13, 20, 21, 30, 31, 22, 33]
    assert row.masked_ids == [10, 9, 9, 13, 20, 21, 30, 31, 22, 33]
    assert row.targets == [IGNORED] * 4 + [IGNORED, 30, 31, 2] + [33, 2]
    assert row.positions == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5]
    assert row.segments == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert row.is_document == [False, True, True, False] + [False] * 6


def test_a_packed_question_gets_the_logits_it_gets_alone():
    model = tiny_model()
    pairs = [([20, 21], [30, 31, 2]), ([22], [33, 2]), ([23, 24, 25], [34, 2])]
    packed = collate([pack(CONTEXT, pairs)], 0)
    together = model(input_ids=packed.open_ids, attention_mask=packed.attention, position_ids=packed.positions).logits[
        packed.is_supervised
    ]
    alone = []
    for question, answer in pairs:
        ids = torch.tensor([CONTEXT.open_ids + question + answer[:-1]])
        alone.append(model(input_ids=ids).logits[0, -len(answer) :])
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_padding_changes_nothing_and_is_finite():
    model = tiny_model()
    short, long = pack(CONTEXT, [([20], [30, 2])]), pack(CONTEXT, [([21, 22, 23], [31, 32, 33, 2])])
    batch, single = collate([short, long], 0), collate([short], 0)

    def logits(b):
        return model(input_ids=b.open_ids, attention_mask=b.attention, position_ids=b.positions).logits

    assert torch.isfinite(logits(batch)).all()
    length = len(short.open_ids)
    assert torch.allclose(logits(batch)[0, :length], logits(single)[0], atol=1e-5)
    assert batch.is_token.sum(1).tolist() == [len(short.open_ids), len(long.open_ids)]


def test_exact_rows_needs_every_answer_token_of_the_row():
    batch = collate([pack(CONTEXT, [([20], [3, 2])]), pack(CONTEXT, [([21], [4, 2])])], 0)
    logits = torch.zeros(4, 8)
    for position, token in enumerate([3, 2, 4, 5]):
        logits[position, token] = 1.0
    assert exact_rows(logits, batch).tolist() == [True, False]
