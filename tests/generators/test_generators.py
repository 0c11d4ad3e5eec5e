"""The generators: shapes, start, gradients, what they read, and checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import END_TOKEN, PAD_TOKEN, PAPER, random_generator

from distilledprag.base.llm import load_base
from distilledprag.errors import CheckpointError, ConfigError, IncompatibleBaseError, InputError
from distilledprag.generators import build_generator, generator_identity, load_generator
from distilledprag.lora.injection import inject

PASSAGES = [["Anna Tovberg lives in Oakport.", "She works for Velkor Foods."], ["Velkor Foods is based in Millport."]]
DYPRAG = {"architecture": "dyprag", "rank": 3, "alpha": 6}
BOTH = pytest.mark.parametrize("settings", [PAPER, DYPRAG], ids=["paper", "dyprag"])


@BOTH
def test_every_target_module_gets_factors_of_its_shape(tiny_base, settings):
    generator = random_generator(tiny_base, settings)
    batch = generator(generator.encode(tiny_base, PASSAGES))
    assert len(batch.modules) == 3 * 3
    assert batch.scaling == settings["alpha"] / settings["rank"]
    for key, (a, b) in batch.modules.items():
        linear = tiny_base.model.model.get_submodule(key)
        assert a.shape == (2, settings["rank"], linear.in_features)
        assert b.shape == (2, linear.out_features, settings["rank"])


@BOTH
def test_a_prompt_gets_the_same_adapter_alone_and_in_a_batch(tiny_base, settings):
    generator = random_generator(tiny_base, settings)
    together = generator(generator.encode(tiny_base, PASSAGES))
    for row, passages in enumerate(PASSAGES):
        alone = generator(generator.encode(tiny_base, [passages]))
        for key, factors in together.modules.items():
            for ours, theirs in zip(factors, alone.modules[key], strict=True):
                assert torch.allclose(ours[row], theirs[0], atol=1e-5)


@BOTH
def test_other_documents_give_another_adapter(tiny_base, settings):
    generator = random_generator(tiny_base, settings)
    batch = generator(generator.encode(tiny_base, PASSAGES))
    assert any(not torch.allclose(a[0], a[1], atol=1e-4) for a, _ in batch.modules.values())


@BOTH
def test_gradients_reach_every_trainable_parameter(tiny_base, settings):
    generator = random_generator(tiny_base, settings).train()
    batch = generator(generator.encode(tiny_base, PASSAGES))
    prompt = torch.randint(5, 50, (2, 9))
    with inject(tiny_base.model, batch):
        tiny_base.model(input_ids=prompt).logits.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in tiny_base.model.parameters())


def test_the_paper_generator_starts_with_b_scaled_as_released(tiny_base):
    generator = build_generator(PAPER, tiny_base).eval()
    assert generator.scale.item() == -8.0
    states = generator.encode(tiny_base, PASSAGES)
    with torch.no_grad():
        small = generator(states).modules
        generator.scale.fill_(1000.0)  # sigmoid 1: factor 1
        full = generator(states).modules
    factor = 1e-4 + 0.9999 * torch.sigmoid(torch.tensor(-8.0))
    for key in small:
        assert torch.equal(small[key][0], full[key][0])
        assert torch.allclose(small[key][1], full[key][1] * factor, atol=1e-7)


def test_empty_passages_cannot_be_encoded(tiny_base):
    with pytest.raises(InputError, match="no document text"):
        random_generator(tiny_base, PAPER).encode(tiny_base, [["", " "]])


@pytest.mark.parametrize("settings, wrong", [
    ({"architecture": "magic"}, "magic"),
    ({"architecture": ["paper"]}, "paper"),
    ("x", "keys and values"),
    ({**PAPER, "ranks": 3}, "ranks"),
])  # fmt: skip
def test_wrong_settings_are_named(tiny_base, settings, wrong):
    with pytest.raises(ConfigError, match=wrong):
        build_generator(settings, tiny_base)


@BOTH
def test_a_checkpoint_gives_the_same_adapters_back(tiny_base, settings, tmp_path):
    generator = random_generator(tiny_base, settings)
    generator.save_pretrained(tmp_path / "g")
    loaded = load_generator(tmp_path / "g", tiny_base)
    states = generator.encode(tiny_base, PASSAGES)
    for key, factors in generator(states).modules.items():
        for ours, theirs in zip(factors, loaded(states).modules[key], strict=True):
            assert torch.equal(ours, theirs)
    assert generator_identity(loaded) == generator_identity(generator)
    through_mixin = type(generator).from_pretrained(str(tmp_path / "g"), base=tiny_base)
    assert generator_identity(through_mixin) == generator_identity(generator)


def test_half_precision_checkpoints_keep_their_identity(tiny_base, tmp_path):
    generator = random_generator(tiny_base, PAPER)
    generator.save_pretrained(tmp_path / "g", dtype=torch.float16)
    weights = load_file(tmp_path / "g" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert generator_identity(load_generator(tmp_path / "g", tiny_base)) == generator_identity(generator)


def test_a_generator_refuses_another_base_and_says_which_it_wants(tiny_generator_folder, other_base_folder):
    other = load_base(other_base_folder, dtype=torch.float32)
    with pytest.raises(IncompatibleBaseError, match="base"):
        load_generator(tiny_generator_folder, other)


def _damaged(folder, kind):
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "missing":
        weights.unlink()
    elif kind == "not finite":
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        save_file(tensors, weights)
    elif kind == "shape":
        tensors = load_file(weights)
        name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
        tensors[name] = tensors[name][:, :1].contiguous()
        save_file(tensors, weights)
    else:
        config = json.loads((folder / "config.json").read_text())
        del config["settings"]
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind, message", [
    ("truncated", "truncated or damaged"),
    ("missing", "is missing"),
    ("not finite", "not finite"),
    ("shape", "has shape"),
    ("config", "does not describe a generator"),
])  # fmt: skip
def test_a_damaged_checkpoint_says_what_is_wrong(tiny_base, tmp_path, kind, message):
    random_generator(tiny_base, PAPER).save_pretrained(tmp_path / "g")
    _damaged(tmp_path / "g", kind)
    with pytest.raises(CheckpointError, match=message):
        load_generator(tmp_path / "g", tiny_base)


def test_an_external_encoder_is_read_but_not_saved(tiny_base, tmp_path):
    from transformers import PreTrainedTokenizerFast, T5Config, T5Model

    backend = tiny_base.tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD_TOKEN, eos_token=END_TOKEN)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer)}
    T5Model(T5Config(**sizes)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    settings = {**PAPER, "encoder": str(tmp_path / "encoder")}
    generator = random_generator(tiny_base, settings)
    assert not generator.reads_base
    states = generator.encode(tiny_base, PASSAGES)
    assert states.states.shape[0] == 1 and states.states.shape[-1] == 16
    generator.save_pretrained(tmp_path / "g")
    assert not [name for name in load_file(tmp_path / "g" / "model.safetensors") if name.startswith("encoder.")]
    loaded = load_generator(tmp_path / "g", tiny_base)
    for key, (a, _) in generator(states).modules.items():
        assert torch.equal(a, loaded(loaded.encode(tiny_base, PASSAGES)).modules[key][0])
    torch.manual_seed(1)
    T5Model(T5Config(**sizes)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="another document encoder"):
        load_generator(tmp_path / "g", tiny_base)


def test_a_long_t5_encoder_is_read_as_it_reads_alone(tiny_base, tmp_path):
    from transformers import LongT5Config, LongT5EncoderModel, LongT5Model, PreTrainedTokenizerFast

    backend = tiny_base.tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD_TOKEN, eos_token=END_TOKEN)
    torch.manual_seed(0)
    config = LongT5Config(
        d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=len(tokenizer), feed_forward_proj="gated-gelu",
        encoder_attention_type="transient-global", local_radius=4, global_block_size=4,
    )  # fmt: skip
    LongT5Model(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    generator = random_generator(tiny_base, {**PAPER, "encoder": str(tmp_path / "encoder")})
    long = [" ".join(PASSAGES[0]) * 4]  # many local blocks and global ones
    states = generator.encode(tiny_base, [long])
    alone = LongT5EncoderModel.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        expected = alone(**tokenizer(long, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
    assert expected.size(1) > 2 * config.local_radius + 1
    assert torch.allclose(states.states[0], expected, atol=1e-5) and states.mask.all()
    adapters = generator(states)
    assert len(adapters.modules) == 3 * 3 and all(
        torch.isfinite(part).all() for pair in adapters.modules.values() for part in pair
    )
    other = generator(generator.encode(tiny_base, [[*long, "She works for Velkor Foods."]]))
    key = next(iter(adapters.modules))
    assert not torch.allclose(adapters.modules[key][1], other.modules[key][1])


def test_an_encoder_that_is_not_there_is_named(tiny_base):
    with pytest.raises(CheckpointError, match="no-such-encoder"):
        build_generator({**PAPER, "encoder": "./no-such-encoder"}, tiny_base)
