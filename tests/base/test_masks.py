"""The mask token: its numbers, its place in table and tokenizer, and that it is made once."""

from __future__ import annotations

import pytest
import torch

from distilledprag.base.masks import install_mask, mask_record, sample_row
from distilledprag.errors import CheckpointError
from distilledprag.lora.identity import BaseIdentity

MASK = "<|doc_mask|>"


def row_of(model, index):
    return model.get_input_embeddings().weight[index].detach().clone()


def test_rows_have_the_tables_mean_and_population_deviation():
    generator = torch.Generator().manual_seed(3)
    spread = torch.linspace(0.5, 3, 24)
    table = torch.randn(5, 24, generator=generator) * spread + torch.linspace(-2, 2, 24)
    rows = torch.stack([sample_row(table, seed) for seed in range(4000)])
    deviation = table.std(0, unbiased=False)  # of 5 rows: the sample deviation would be 12 % more
    noise = (rows - table.mean(0)) / deviation
    assert noise.mean(0).abs().max() < 0.06
    assert (noise.std(0) - 1).abs().max() < 0.05
    assert (noise.T @ noise / len(rows) - torch.eye(24)).abs().max() < 0.1  # dimensions are independent


def test_a_row_is_the_formula_worked_by_hand():
    table = torch.tensor([[1.0, -4.0], [3.0, 4.0], [100.0, 100.0]])
    noise = torch.randn(2, generator=torch.Generator().manual_seed(5))
    expected = torch.tensor([2.0, 0.0]) + torch.tensor([1.0, 4.0]) * noise
    assert torch.allclose(sample_row(table, 5, skip=2), expected, rtol=2**-8)


def test_long_tables_are_summed_in_full():
    table = torch.cat((torch.zeros(5000, 16), torch.ones(5000, 16)))
    noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sample_row(table, 0), 0.5 + 0.5 * noise, rtol=2**-8)


def test_the_seed_alone_decides_and_the_global_random_state_is_left_alone(make_model, make_tokenizer):
    rows = []
    for seed in (0, 0, 1):
        tokenizer = make_tokenizer()
        model = make_model(len(tokenizer), tied=False)
        torch.manual_seed(len(rows))
        before = torch.get_rng_state()
        index = install_mask(model, tokenizer, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        rows.append(row_of(model, index))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_full_table_gets_one_row_and_nothing_else_changes(make_model, make_tokenizer, kind, tied):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), kind, tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows, words = len(tokenizer), torch.arange(20)[None]
    logits = model(words).logits
    index = install_mask(model, tokenizer)
    assert index == rows == tokenizer.convert_tokens_to_ids(MASK)
    assert len(tokenizer) == model.config.vocab_size == rows + 1
    assert torch.equal(row_of(model, index), sample_row(before["model.embed_tokens.weight"], 0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor[: len(before[name])], before[name])
    assert torch.allclose(model(words).logits[..., :rows], logits, atol=1e-6)
    if tied:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_untied_head_never_prefers_the_mask(make_model, make_tokenizer):
    for padding in (0, 3):
        tokenizer = make_tokenizer()
        model = make_model(len(tokenizer) + padding, tied=False)
        index = install_mask(model, tokenizer)
        logits = model(torch.arange(200)[None]).logits[0]
        others = torch.cat((logits[:, :index], logits[:, index + 1 :]), dim=-1)
        assert torch.allclose(logits[:, index], others.mean(-1), atol=1e-6)
        assert (logits[:, index] < others.max(-1).values).all()


def test_generation_never_writes_the_mask(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    index = install_mask(model, tokenizer)
    with torch.no_grad():  # a tied head that loves the mask
        model.get_input_embeddings().weight[index] = 50 * model.model(torch.tensor([[1]]))[0][0, -1]
    assert model(torch.tensor([[1]])).logits[0, -1].argmax() == index
    written = model.generate(torch.tensor([[1]]), max_new_tokens=5, do_sample=False)
    assert index not in written


def test_a_padded_table_gives_one_of_its_unused_rows(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer) + 3)
    table = model.get_input_embeddings().weight.detach().clone()
    index = install_mask(model, tokenizer)
    assert index == len(tokenizer) - 1
    assert model.get_input_embeddings().weight.shape == table.shape
    assert torch.equal(row_of(model, index), sample_row(table, 0, skip=index))


def test_a_reserved_token_keeps_its_id_and_its_old_row_does_not_count(make_model, make_tokenizer):
    rows = []
    for old in (0.0, 100.0):
        tokenizer = make_tokenizer(MASK)
        reserved = tokenizer.convert_tokens_to_ids(MASK)
        model = make_model(len(tokenizer))
        with torch.no_grad():
            model.get_input_embeddings().weight[reserved] = old
        assert install_mask(model, tokenizer) == reserved == 1
        assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
        rows.append(row_of(model, reserved))
    assert torch.equal(*rows)


def test_the_token_is_special_and_one_piece(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    index = install_mask(make_model(len(tokenizer)), tokenizer)
    assert index in tokenizer.all_special_ids
    assert tokenizer.encode(f"Rome{MASK}Rome").count(index) == 1
    assert tokenizer.decode([index], skip_special_tokens=True) == ""


def test_installing_again_changes_nothing(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), tied=False)
    index = install_mask(model, tokenizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size, record = len(tokenizer), mask_record(model)
    assert install_mask(model, tokenizer) == index
    assert (len(tokenizer), mask_record(model)) == (size, record)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_config_says_what_was_installed(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    index = install_mask(model, tokenizer, seed=4)
    record = model.config.to_dict()["distilledprag_mask"]
    identity = BaseIdentity.of(model, index, "tiny")
    assert record == {"token": MASK, "id": index, "seed": 4, "row_hash": identity.mask_row_hash}


def test_another_seed_or_token_on_an_installed_base_is_refused(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    install_mask(model, tokenizer)
    with pytest.raises(CheckpointError, match=r"already has the mask token .* seed 0, not .* seed 1"):
        install_mask(model, tokenizer, seed=1)
    with pytest.raises(CheckpointError, match="already has"):
        install_mask(model, tokenizer, token="<other>")


def test_a_row_that_was_trained_since_is_refused(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    index = install_mask(model, tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[index, 0] += 1
    with pytest.raises(CheckpointError, match="not the one that was installed"):
        install_mask(model, tokenizer)


def test_unusable_bases_are_refused(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([MASK])
    with pytest.raises(CheckpointError, match="ordinary word"):
        install_mask(make_model(len(tokenizer)), tokenizer)
    broken = make_model(len(tokenizer))
    with torch.no_grad():
        broken.get_input_embeddings().weight[5, 5] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        install_mask(broken, make_tokenizer())
    model = make_model(len(tokenizer))
    model.config.distilledprag_mask = {"token": MASK}
    with pytest.raises(CheckpointError, match="unreadable 'distilledprag_mask'"):
        install_mask(model, make_tokenizer())


def test_the_row_is_the_same_number_for_number_in_every_precision(make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), hidden=512)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.01)  # small enough for float16's gaps to matter
    row = row_of(model, install_mask(model, tokenizer))
    assert torch.equal(row.bfloat16().float(), row)
    assert torch.equal(row.half().float(), row)
    assert row.unique().numel() > 300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_takes_a_mask(make_model, make_tokenizer, dtype):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), dtype=dtype)
    table = model.get_input_embeddings().weight.detach().clone()
    index = install_mask(model, tokenizer)
    assert row_of(model, index).dtype == dtype
    assert torch.equal(row_of(model, index).float(), sample_row(table, 0))
