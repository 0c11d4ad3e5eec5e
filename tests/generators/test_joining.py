"""Adapters made apart and put side by side are the adapter of all their passages; PEFT's own `cat` is the sum of two."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from distilledprag.base.llm import load_base
from distilledprag.errors import CheckpointError, InputError
from distilledprag.generators.state import Part, joined_lora, joined_states
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG

ONE = ["Anna lives in Oakport.", "The ship left the port."]
TWO = ["Velkor Foods is based in Millport."]


@pytest.fixture(scope="module")
def prag(tiny_prepared_folder):
    return DistilledPRAG.from_pretrained(tiny_prepared_folder)


def part(prag, passages, peft=True, name="it"):
    lengths = [len(prag.prompts.document_ids(text)) for text in passages]
    return Part(prag.encode(passages) if peft else prag.encode_states(passages), lengths, name)


def test_rows_of_a_peft_adapter_are_made_for_their_new_masks(prag):
    joined, together = joined_lora(prag.states, [part(prag, ONE), part(prag, TWO)]), prag.encode([*ONE, *TWO])
    (ours,), (wanted,) = joined.modules.values(), together.modules.values()
    assert torch.equal(ours.a, wanted.a) and torch.allclose(ours.b, wanted.b, atol=1e-5)
    assert joined.alpha == together.alpha and joined.base == together.base
    second = part(prag, TWO).adapter
    (alone,) = second.modules.values()
    assert not torch.allclose(ours.b[:, -second.rank :], alone.b, atol=1e-2)  # appending its rows would not have been enough


def test_rows_of_a_compact_adapter_follow_each_other(prag):
    joined = joined_states([part(prag, ONE, peft=False), part(prag, TWO, peft=False)])
    assert torch.allclose(joined.rows, prag.encode_states([*ONE, *TWO]).rows, atol=1e-5)


def test_more_rows_than_masks_are_refused(prag):
    long = part(prag, [" ".join(ONE * 6)])
    assert long.adapter.rank < 128 < 2 * long.adapter.rank
    with pytest.raises(InputError, match="more tokens than the base's 128 masks"):
        joined_lora(prag.states, [long, long])


def test_adapters_that_do_not_belong_together_are_refused(prag, tiny_base):
    with pytest.raises(CheckpointError, match="files of two adapters"):
        Part(prag.encode(TWO), [3], "it")
    other = DistilledPRAG(tiny_base, layer=0).encode_states(TWO)
    with pytest.raises(CheckpointError, match="it was made for"):
        joined_states([part(prag, TWO, peft=False), Part(other, [other.count], "it")])
    foreign = part(prag, TWO)
    lora = LoraWeights(foreign.adapter.modules, foreign.adapter.alpha, foreign.adapter.base, "paper")
    with pytest.raises(CheckpointError, match="no state adapter"):
        joined_lora(prag.states, [foreign, Part(lora, foreign.passages, "it")])


def test_pefts_cat_leaves_both_adapters_at_the_same_masks_where_they_add_up(prag, tiny_prepared_folder, tmp_path):
    one, two = part(prag, ONE).adapter, part(prag, TWO).adapter
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_prepared_folder), tmp_path / "one", "one")
    model.load_adapter(tmp_path / "two", "two")
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "both", combination_type="cat")
    (layer,) = [module for module in model.modules() if "both" in getattr(module, "lora_A", {})]
    a = layer.lora_A["both"].weight
    assert torch.equal(a[one.rank], a[0])  # the first row of the second adapter answers to mask 0, as that of the first does
    change = layer.get_delta_weight("both")
    (first,), (second,) = one.modules.values(), two.modules.values()
    assert torch.allclose(change, first.b @ first.a + second.b @ second.a, atol=1e-5)
    (joined,) = joined_lora(prag.states, [part(prag, ONE), part(prag, TWO)]).modules.values()
    assert not torch.allclose(change, joined.b @ joined.a, atol=1e-2)


def test_the_command_joins_folders_of_either_kind_and_prints_their_prompt(dprag, prag, tiny_prepared_folder, tmp_path):
    for number, texts in enumerate((ONE, TWO)):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(texts))
    base = ["--base", tiny_prepared_folder, "--json"]
    for kind in ("peft", "engine"):
        made = []
        for number in range(2):
            code, out, err = dprag(
                "encode", tmp_path / f"{number}.txt", "--for", kind, "--out", tmp_path / f"{kind}-{number}", *base
            )
            assert code == 0, err
            made.append(json.loads(out))
        folders = [tmp_path / f"{kind}-{number}" for number in range(2)]
        code, out, err = dprag("join", *folders, "--out", tmp_path / f"{kind}-both", *base)
        assert code == 0, err
        record = json.loads(out)
        assert record["masks"] == sum(one["masks"] for one in made) and record["prompt"].count("Passage") >= 2
        assert record["prompt"] == json.loads((tmp_path / f"{kind}-both" / "prompt.json").read_text())["prompt"]
    assert LoraWeights.from_pretrained(tmp_path / "peft-both").rank == record["masks"]
    assert StateAdapter.from_bytes((tmp_path / "engine-both" / "states.safetensors").read_bytes()).count == record["masks"]
    code, _, err = dprag("join", tmp_path / "peft-0", tmp_path / "engine-1", "--out", tmp_path / "x", *base)
    assert code == 1 and "some of these adapters are for PEFT" in err and not (tmp_path / "x").exists()
    (tmp_path / "peft-0" / "prompt.json").unlink()
    code, _, err = dprag("join", tmp_path / "peft-0", tmp_path / "peft-1", "--out", tmp_path / "x", *base)
    assert code == 1 and "prompt.json" in err


def test_an_adapter_names_a_base_that_can_be_made_again(prag, tiny_prepared_folder, tmp_path):
    prag.encode(TWO).save_pretrained(tmp_path / "adapter")
    name = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert name == "prepared (dprag prepare-base prepared-plain --out prepared --masks 128)"
    assert load_base(tiny_prepared_folder).id == "prepared"
