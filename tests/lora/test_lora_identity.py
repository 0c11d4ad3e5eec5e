"""A base model's identity: the same for every copy and dtype, another for every other model."""

from __future__ import annotations

import pytest
import torch
from lora_examples import ARCHITECTURES, tiny_model
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from distilledprag.errors import CheckpointError, IncompatibleBaseError
from distilledprag.lora import BaseIdentity


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saving_copying_and_casting_keep_the_identity(architecture, tmp_path):
    model = tiny_model(architecture)
    identity = BaseIdentity.of(model, 5, "here")
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        copy = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        elsewhere = BaseIdentity.of(copy, 5, "elsewhere")
        assert identity.matches(elsewhere)
        identity.require(elsewhere)


def test_another_architecture_mask_row_or_weights_is_another_identity():
    identity = BaseIdentity.of(tiny_model(), 5, "here")
    others = {
        "architectures differ": [(tiny_model(num_hidden_layers=1), 5), (tiny_model("qwen2"), 5)],
        "mask-token embeddings differ": [(tiny_model(), 6), (tiny_model(seed=1), 5)],
    }
    for reason, cases in others.items():
        for model, mask in cases:
            with pytest.raises(IncompatibleBaseError, match=reason) as caught:
                identity.require(BaseIdentity.of(model, mask, "there"), "This generator")
            message = str(caught.value)
            assert message.startswith("This generator was made for the base model 'here'")
            assert "the loaded base model is 'there'" in message


def test_identity_survives_a_dictionary_and_refuses_others():
    identity = BaseIdentity.of(tiny_model(), 5, "here")
    assert BaseIdentity.from_dict(identity.to_dict()) == identity
    for fields in ({}, None, {**identity.to_dict(), "extra": "x"}, {**identity.to_dict(), "id": None}):
        with pytest.raises(CheckpointError):
            BaseIdentity.from_dict(fields)


@pytest.mark.parametrize("mask", [-1, 64])
def test_a_mask_token_outside_the_table_is_refused(mask):
    with pytest.raises(CheckpointError, match="Install the mask token"):
        BaseIdentity.of(tiny_model(), mask, "here")
