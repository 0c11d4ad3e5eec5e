"""Packed questions are computed as if each stood alone; supervised are exactly the answers."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from distilledprag.distillation.packing import IGNORED, RowTable, packed_length

CONTEXT = [10, 11, 12, 13]


def packed(*rows, length=None):
    """Each row a list of (context, pairs)."""
    table = RowTable(len(rows), length)
    for number, contexts in enumerate(rows):
        for owner, (context, pairs) in enumerate(contexts):
            table.add(number, owner, context, pairs)
    return table.tensors(0)


def logits(model, rows):
    attention = rows.attention(torch.float32)
    return model(input_ids=rows.ids, attention_mask=attention, position_ids=rows.positions).logits


def tiny_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=64, num_attention_heads=2, num_key_value_heads=2, **sizes)).eval()


def test_supervised_positions_are_those_that_predict_answer_tokens():
    pairs = [([20, 21], [30, 31, 2]), ([22], [33, 2])]
    rows = packed([(CONTEXT, pairs)])
    assert rows.ids.tolist() == [[10, 11, 12, 13, 20, 21, 30, 31, 22, 33]]
    assert rows.labels.tolist() == [[IGNORED] * 4 + [IGNORED, 30, 31, 2] + [33, 2]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 4, 5]]
    assert rows.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2]]
    assert packed_length(CONTEXT, pairs) == rows.ids.shape[1]


def test_a_packed_question_gets_the_logits_it_gets_alone():
    model = tiny_model()
    pairs = [([20, 21], [30, 31, 2]), ([22], [33, 2]), ([23, 24, 25], [34, 2])]
    other = ([14, 15], [([26], [35, 2])])
    rows = packed([(CONTEXT, pairs), other], length=24)
    together = logits(model, rows)[rows.is_supervised]
    alone = []
    for context, questions in ((CONTEXT, pairs), other):
        for question, answer in questions:
            ids = torch.tensor([context + question + answer[:-1]])
            alone.append(model(input_ids=ids).logits[0, -len(answer) :])
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_padding_changes_nothing_and_is_finite():
    model = tiny_model()
    short, long = [(CONTEXT, [([20], [30, 2])])], [(CONTEXT, [([21, 22, 23], [31, 32, 33, 2])])]
    batch, single = packed(short, long), packed(short)
    assert torch.isfinite(logits(model, batch)).all()
    length = packed_length(*short[0])
    assert torch.allclose(logits(model, batch)[0, :length], logits(model, single)[0], atol=1e-5)
    assert batch.is_token.sum(1).tolist() == [length, packed_length(*long[0])]


def test_hidden_tokens_are_as_if_they_were_not_there():
    model = tiny_model()
    pairs = [([20, 21], [30, 31, 2]), ([22], [33, 2])]
    rows = packed([(CONTEXT, pairs)])
    hidden = torch.zeros_like(rows.ids, dtype=torch.bool)
    hidden[0, 1:3] = True
    shorter = packed([([10, 13], pairs)])
    assert torch.allclose(logits(model, rows.without(hidden))[~hidden], logits(model, shorter)[0], atol=1e-5)


def test_contexts_are_placed_in_the_first_row_with_room_for_all_of_them():
    table = RowTable(2, 6)
    table.add(0, 0, CONTEXT)
    assert table.first_fit([2]) == [0] and table.first_fit([3]) == [1]
    assert table.first_fit([2, 6]) == [0, 1] and table.first_fit([3, 4]) is None
