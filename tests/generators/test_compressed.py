"""Compressed states: as many rows as asked, blind to what a memory token must not see, trained and loaded again."""

from __future__ import annotations

import json

import pytest
import torch

from distilledprag.base.llm import load_base
from distilledprag.distillation.compressor_training import CompressorTask, CompressRecipe, train_compressor
from distilledprag.errors import CheckpointError, ConfigError, IncompatibleBaseError
from distilledprag.generators.compressed import CompressorSettings, StateCompressor, group_sizes, load_compressor
from distilledprag.generators.state import StateGenerator
from distilledprag.prompts import PromptBuilder

TEXTS = ["Anna Tovberg lives in Oakport and works for Velkor Foods as a baker.", "Velkor Foods is based in Millport."]


@pytest.fixture(scope="module")
def compressor(tiny_base):
    torch.manual_seed(0)
    made = StateCompressor(CompressorSettings(ratios=(2, 4), layer=1, merge_after=0, rank=4, decoder_rank=2), tiny_base)
    with torch.no_grad():
        for factor in made.encoder.b:
            factor.add_(torch.randn_like(factor) * 0.1)
    return made.eval()


def test_groups_cover_all_tokens():
    assert group_sizes(7, 3) == [3, 3, 1] and group_sizes(4, 4) == [4] and group_sizes(0, 2) == []


@pytest.mark.parametrize("ratio", [2, 4])
def test_a_prompt_has_a_mask_for_every_row(tiny_base, compressor, ratio):
    prompts = PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)
    rows = compressor.compress(tiny_base, TEXTS, ratio)
    ids = prompts.masked_context(list(map(len, rows)))
    assert ids.count(tiny_base.mask_token_id) == sum(map(len, rows))
    assert [len(one) for one in rows] == [-(-len(prompts.document_ids(text)) // ratio) for text in TEXTS]
    kept = [token for token in ids if token != tiny_base.mask_token_id]
    assert kept == [token for token in prompts.context(TEXTS).masked_ids if token != tiny_base.mask_token_id]


def test_passages_are_compressed_each_as_if_it_were_alone(tiny_base, compressor):
    together = compressor.compress(tiny_base, TEXTS, 2)
    alone = [compressor.compress(tiny_base, [text], 2)[0] for text in TEXTS]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_row_depends_on_its_group_and_what_stands_before_it_only(tiny_base, compressor):
    sizes = group_sizes(len(compressor.prompts.document_ids(TEXTS[0])), 2)
    longer = f"{TEXTS[0]} She earns $46,000 a year."
    with torch.no_grad():
        rows = compressor(tiny_base, [TEXTS[0]], [sizes])[0]
        ids = len(compressor.prompts.document_ids(longer))
        more = compressor(tiny_base, [longer], [[*sizes, *group_sizes(ids - sum(sizes), 2)]])[0]
    torch.testing.assert_close(more[: len(rows)], rows, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(rows[0], rows[1])


def test_groups_of_one_token_without_training_are_the_states_themselves(tiny_base):
    """An untrained memory token that stands for one token and sees what it sees has almost the same state; it sees itself
    twice."""
    untrained = StateCompressor(CompressorSettings(ratios=(2,), layer=1, merge_after=0, rank=2), tiny_base)
    states = StateGenerator(tiny_base, untrained.prompts, layer=1).rows([TEXTS[1]])[0]
    with torch.no_grad():
        rows = untrained(tiny_base, [TEXTS[1]], [[1] * len(states)])[0]
    similar = torch.nn.functional.cosine_similarity(rows, states, dim=-1)
    assert similar.mean() > 0.9


def test_kept_tokens_without_training_are_the_rarest_ones_states(tiny_base):
    untrained = StateCompressor(CompressorSettings(ratios=(2,), layer=1, rank=2, memory="kept"), tiny_base)
    untrained.learn_frequencies(["and and and works works for", "and and lives", " "])
    prompts = untrained.prompts
    ids = prompts.document_ids(TEXTS[0])
    sizes = untrained.group(ids, 2)
    assert sum(sizes) == len(ids) and len(sizes) == -(-len(ids) // 2) and min(sizes) > 0
    kept = torch.tensor(sizes).cumsum(0) - 1
    common = set(prompts.document_ids("and works for"))
    dropped = set(range(len(ids))) - set(kept.tolist())
    assert all(place in dropped for place, index in enumerate(ids) if index in common)
    states = dict(zip(TEXTS, StateGenerator(tiny_base, prompts, layer=1).rows(TEXTS), strict=True))
    with torch.no_grad():
        rows = untrained(tiny_base, TEXTS, [sizes, untrained.group(prompts.document_ids(TEXTS[1]), 4)])
    torch.testing.assert_close(rows[0], states[TEXTS[0]][kept], atol=1e-5, rtol=1e-4)
    assert untrained.group([], 2) == []


@pytest.fixture
def recipe(tmp_path, tiny_base_folder):
    rows = [
        {"documents": [{"title": "", "text": f"Anna {n} lives in Oakport."}], "question": f"Where does {n} live?", "answers":
        ["Oakport"]} for n in range(8)
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "answers": ["x" * 100]}])))
    return CompressRecipe(
        output=tmp_path / "run",
        base=str(tiny_base_folder),
        dtype="float32",
        compressor={"layer": 1, "rank": 4, "ratios": [2, 4]},
        data={"files": [file], "batch_size": 4, "validation_share": 0.25},
        training={"steps": 8, "learning_rate": 0.02, "warmup_ratio": 0, "tensorboard": False},
    )


@pytest.mark.parametrize("memory", ["appended", "kept"])
def test_training_lowers_the_loss_and_leaves_a_checkpoint_that_gives_the_same_rows(recipe, tiny_base, other_base_folder, memory):
    recipe.compressor.memory = memory
    scores = train_compressor(recipe, quiet=True)
    log = [json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss_generation"] < log[0]["loss_generation"]
    assert {"exact_match/r2", "shuffled/r4"} <= scores.keys()
    loaded = load_compressor(recipe.output / "model", tiny_base)
    again = load_compressor(recipe.output / "model", tiny_base)
    assert loaded.identity == again.identity
    rows = loaded.compress(tiny_base, TEXTS, 4)
    torch.testing.assert_close(torch.cat(rows), torch.cat(again.compress(tiny_base, TEXTS, 4)))
    with pytest.raises(IncompatibleBaseError):
        load_compressor(recipe.output / "model", load_base(other_base_folder))


def test_harder_ratios_join_in_the_first_half_of_a_run(recipe, tiny_base):
    task = CompressorTask(tiny_base, StateCompressor(recipe.compressor, tiny_base), recipe)
    assert {task.ratio(number) for number in range(2)} == {2}
    assert {task.ratio(number) for number in range(4, 60)} == {2, 4}
    assert [task.ratio(number) for number in range(20)] == [task.ratio(number) for number in range(20)]


def test_wrong_settings_and_other_checkpoints_are_named(tiny_base, tiny_generator_folder):
    with pytest.raises(ValueError, match="merge_after"):
        CompressorSettings(layer=2, merge_after=2)
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        StateCompressor(CompressorSettings(layer=2), tiny_base)
    with pytest.raises(CheckpointError, match="not a compressor"):
        load_compressor(tiny_generator_folder, tiny_base)
