"""The circuits that a small base LM starts with do what they are named for, before any training."""

from __future__ import annotations

import pytest
import torch

from distilledprag.training.base_lm import BaseModelSettings, build_base
from distilledprag.training.tokenizer import train_tokenizer

LENGTH = 24


@pytest.fixture(scope="module")
def model():
    settings = BaseModelSettings(hidden=128, intermediate=64, layers=5, heads=4, matching=True)
    built = build_base(settings, train_tokenizer(vocabulary=4096, context=2048), seed=0)
    built.set_attn_implementation("eager")
    return built.eval()


@pytest.fixture(scope="module")
def attention(model):
    """Attention (heads, 2 LENGTH, 2 LENGTH) of every layer over a random string written twice."""
    string = torch.randint(2, model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [layer[0] for layer in model(input_ids=string.repeat(1, 2), output_attentions=True).attentions]


def test_two_heads_of_the_first_layer_look_at_the_previous_token(attention):
    previous = attention[0][:2].diagonal(offset=-1, dim1=1, dim2=2)  # (2, 2 LENGTH - 1)
    assert previous.min() > 0.9


def test_the_second_layer_looks_behind_the_last_time_the_token_stood_there(attention):
    again = torch.arange(LENGTH, 2 * LENGTH - 1)
    found = attention[1].mean(0)[again, again - LENGTH + 1]
    assert found.mean() > 5 / LENGTH


def test_matching_heads_score_equal_content_highest(model):
    """What the collecting heads write for a token is recognised by the matching heads wherever it is written again."""
    size = model.config.hidden_size // model.config.num_attention_heads
    written = model.model.layers[2].self_attn.o_proj.weight[:, : 2 * size]  # (D, 2 d)
    contents = torch.randn(16, 2 * size, generator=torch.Generator().manual_seed(1)) @ written.T  # (16, D)
    with torch.no_grad():
        for layer in (3, 4):
            matching = model.model.layers[layer].self_attn
            rows = slice(0, 2 * size)
            scores = (contents @ matching.q_proj.weight[rows].T) @ (contents @ matching.k_proj.weight[rows].T).T
            assert scores.argmax(-1).tolist() == list(range(16))
