"""Bases on disk: saved, loaded, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from distilledprag.base.llm import load_base, load_unmasked_base, save_base
from distilledprag.base.masks import install_mask
from distilledprag.errors import CheckpointError

MASK = "<|doc_mask|>"


@pytest.fixture
def saved(tmp_path, make_model, make_tokenizer):
    """A saved base with a mask, in a folder of its own."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), tied=False)
    install_mask(model, tokenizer)
    save_base(model, tokenizer, tmp_path / "tiny-base")
    return tmp_path / "tiny-base"


def edit_json(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_base_loads_as_it_was(tmp_path, make_model, make_tokenizer, kind, tied):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), kind, tied)
    index = install_mask(model, tokenizer)
    save_base(model, tokenizer, tmp_path / kind)
    base = load_base(tmp_path / kind)
    ids = tokenizer.encode(f"Rome, 1234 {MASK} isn't old.")
    assert index in ids
    assert base.tokenizer.encode(f"Rome, 1234 {MASK} isn't old.") == ids
    splits = [str(one.backend_tokenizer.pre_tokenizer) for one in (tokenizer, base.tokenizer)]
    assert splits[0] == splits[1]
    assert base.mask_token_id == index
    assert torch.equal(base.model(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)
    assert (base.id, base.identity.id, base.context_length, str(base.device)) == (kind, kind, 256, "cpu")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
    row = model.get_input_embeddings().weight[index]
    assert torch.equal(plain.get_input_embeddings().weight[index], row)
    assert AutoTokenizer.from_pretrained(tmp_path / kind).convert_tokens_to_ids(MASK) == index


def test_a_loaded_base_is_frozen_and_in_evaluation_mode(saved):
    model = load_base(saved).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_identity_survives_copies_and_precisions(saved, tmp_path):
    first = load_base(saved)
    save_base(first.model, first.tokenizer, tmp_path / "copy")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        again = load_base(str(tmp_path / "copy"), dtype=dtype)
        assert again.model.dtype == dtype
        assert again.identity.matches(first.identity)
    half = load_base(saved, dtype=torch.float16)
    save_base(half.model, half.tokenizer, tmp_path / "half")
    stored = load_base(tmp_path / "half")
    assert stored.model.dtype == torch.float16
    assert stored.identity.matches(first.identity)


def test_bases_of_other_weights_or_seeds_have_other_identities(saved, tmp_path, make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), tied=False)
    install_mask(model, tokenizer, seed=1)
    save_base(model, tokenizer, tmp_path / "other")
    assert not load_base(tmp_path / "other").identity.matches(load_base(saved).identity)


def test_a_base_without_a_mask_says_how_to_install_one(tmp_path, make_model, make_tokenizer):
    tokenizer = make_tokenizer(MASK)  # reserved, but never installed
    save_base(make_model(len(tokenizer)), tokenizer, tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"`dprag prepare-base .*bare --out DIR`"):
        load_base(tmp_path / "bare")
    model, tokenizer = load_unmasked_base(tmp_path / "bare")
    assert install_mask(model, tokenizer) == 1


def test_a_failed_save_leaves_the_old_folder_and_no_litter(saved, monkeypatch):
    base = load_base(saved)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(base.tokenizer, "save_pretrained", fail, raising=False)
    with pytest.raises(OSError, match="disk full"):
        save_base(base.model, base.tokenizer, saved)
    assert load_base(saved).identity == base.identity
    assert [path.name for path in saved.parent.iterdir()] == ["tiny-base"]


def test_paths_that_hold_no_base_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nothing", str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(CheckpointError, match="there is no base model folder"):
            load_base(path)
    with pytest.raises(CheckpointError, match="is a file"):
        load_base(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_base(tmp_path / "empty")


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path, saved):
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"is a bert model \(BertForMaskedLM\).*causal language model"):
        load_base(tmp_path / "bert")
    edit_json(saved / "config.json", architectures=["LlamaForSequenceClassification"])
    with pytest.raises(CheckpointError, match="LlamaForSequenceClassification"):
        load_base(saved)


def test_a_damaged_config_is_refused(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the config\.json of the base model .* cannot be loaded"):
        load_base(saved)


def test_missing_or_damaged_weights_are_refused(saved):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"the weights of the base model .* cannot be loaded"):
        load_base(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"the weights of the base model .* cannot be loaded"):
        load_base(saved)


def test_weights_without_a_tensor_or_of_another_shape_are_refused(saved):
    weights = saved / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lack 1 tensors .*{name}"):
        load_base(saved)
    save_file({**tensors, name: tensors[name][:5].clone()}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensors|cannot be loaded"):
        load_base(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    weights = saved / "model.safetensors"
    name, tensors = "model.layers.1.mlp.up_proj.weight", load_file(weights)
    tensors[name][3, 4] = value
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"not finite, {name} first"):
        load_base(saved)


def test_a_missing_tokenizer_is_refused(saved):
    for path in saved.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer of the base model .* cannot be loaded|installed"):
        load_base(saved)


def test_a_tokenizer_of_another_base_is_refused(saved, tmp_path, make_model, make_tokenizer):
    tokenizer = make_tokenizer(MASK)
    install_mask(make_model(len(tokenizer)), tokenizer)
    tokenizer.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", saved / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"mask token .* has id 280, its tokenizer .* says otherwise"):
        load_base(saved)


def test_a_tokenizer_that_writes_past_the_table_is_refused(saved):
    tokenizer = load_base(saved).tokenizer
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(saved)
    with pytest.raises(CheckpointError, match=r"ids up to \d+, its embedding table has \d+ rows"):
        load_base(saved)


def test_a_changed_mask_row_is_refused(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors["model.embed_tokens.weight"][-1, 0] += 1
    save_file(tensors, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="not the one that was installed"):
        load_base(saved)


def test_a_home_folder_is_never_in_the_public_name(saved):
    assert load_base(str(saved) + "/").id == "tiny-base"
