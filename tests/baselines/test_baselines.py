"""PRAG and DyPRAG: adapters that do what they are said to do, kept and found again; recipes that build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pairs import write_pairs
from tiny import random_generator

from distilledprag.base.llm import weights_hash
from distilledprag.baselines import AugmentedDocument, PragAdapters, PragSettings, concatenated, prag
from distilledprag.baselines.dyprag import DypragRecipe, DypragTask, parameter_distance, train_dyprag
from distilledprag.baselines.prag import PragRecipe, train_adapter, train_adapters, train_prag, training_sequences
from distilledprag.cli.train import run
from distilledprag.distillation.packing import IGNORED
from distilledprag.errors import ConfigError, InputError
from distilledprag.generators import build_generator, load_generator
from distilledprag.lora.injection import inject
from distilledprag.lora.weights import LoraBatch
from distilledprag.prompts import PromptBuilder
from distilledprag.recipes import read_recipe, recipe_values

RECIPES = Path(__file__).parents[2] / "recipes" / "baselines"
DOCUMENT = AugmentedDocument(
    "Anna Tovberg lives in Oakport and works as a baker.",
    "The home of Anna Tovberg is Oakport; she is a baker.",
    (("Where does Anna Tovberg live?", "Oakport"), ("What is the job of Anna Tovberg?", "baker")),
)
OTHER = AugmentedDocument("Bram Keller lives in Dunburg.", "", (("Where does Bram Keller live?", "Dunburg"),))
QUICK = PragSettings(learning_rate=1e-2)


@pytest.fixture(scope="module")
def prompts(tiny_base):
    return PromptBuilder(tiny_base.tokenizer, tiny_base.mask_token_id)


def logits(base, prompts, adapters):
    ids = torch.tensor([prompts.closed_book("Where does Anna Tovberg live?")])
    with torch.no_grad(), inject(base.model, adapters):
        return base.model(input_ids=ids).logits


def test_fine_tuning_makes_the_documents_answers_likelier_and_leaves_the_base_as_it_was(tiny_base, prompts):
    before, names = weights_hash(tiny_base.model), [name for name, _ in tiny_base.model.named_modules()]
    state = torch.random.get_rng_state()
    made = train_adapter(tiny_base, prompts, DOCUMENT, PragSettings(learning_rate=1e-2, epochs=20))
    assert weights_hash(tiny_base.model) == before and names == [name for name, _ in tiny_base.model.named_modules()]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())
    first = prompts.answer_ids("Oakport")[0]
    zero = LoraBatch({key: (pair.a[None], pair.b[None] * 0) for key, pair in made.modules.items()}, made.scaling)
    with_adapter = logits(tiny_base, prompts, LoraBatch.stack([made]))[0, -1].log_softmax(-1)[first]
    assert with_adapter > logits(tiny_base, prompts, zero)[0, -1].log_softmax(-1)[first] + 1
    assert (made.rank, made.alpha) == (2, 32.0)


@pytest.mark.parametrize("settings", [PragSettings(epochs=2), PragSettings(batch_size=2, supervise="answer")])
def test_documents_fine_tuned_side_by_side_are_those_that_peft_fine_tunes_alone(tiny_base, prompts, settings):
    longer = AugmentedDocument(DOCUMENT.text, DOCUMENT.rewrite, DOCUMENT.questions * 3)
    documents = [DOCUMENT, OTHER, longer]  # 3, 1 and 9 sequences: rows that end at different steps
    together = train_adapters(tiny_base, prompts, documents, settings)
    for document, made in zip(documents, together, strict=True):
        alone = train_adapter(tiny_base, prompts, document, settings)
        assert (made.alpha, made.base, made.generator) == (alone.alpha, alone.base, alone.generator)
        for key, pair in alone.modules.items():
            for ours, theirs in zip((made.modules[key].a, made.modules[key].b), (pair.a, pair.b), strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)
            assert pair.b.abs().max() > 1e-4


def test_training_texts_are_the_document_its_rewrite_and_the_questions_alone(prompts):
    made = training_sequences(prompts, DOCUMENT, PragSettings())
    first, second = DOCUMENT.questions
    expected = [prompts.build(first[0], [text]).open_ids for text in (DOCUMENT.text, DOCUMENT.rewrite)]
    expected.append(prompts.closed_book(second[0]))
    answers = [prompts.answer_ids(answer) for answer in (first[1], first[1], second[1])]
    assert [ids for ids, _ in made] == [prompt + answer for prompt, answer in zip(expected, answers, strict=True)]
    assert all(ids == targets for ids, targets in made)
    only = training_sequences(prompts, DOCUMENT, PragSettings(supervise="answer"))
    assert [[t for t in targets if t != IGNORED] for _, targets in only] == answers
    with pytest.raises(InputError, match="questions"):
        training_sequences(prompts, AugmentedDocument("x", "", ()), PragSettings())


def test_concatenated_adapters_add_what_each_of_them_adds(tiny_base, prompts):
    one, two = (train_adapter(tiny_base, prompts, document, QUICK) for document in (DOCUMENT, OTHER))
    both = concatenated([one, two])
    assert both.rank == 4 and both.scaling == one.scaling
    for key, pair in both.modules.items():
        apart = sum(adapter.scaling * adapter.modules[key].b @ adapter.modules[key].a for adapter in (one, two))
        assert torch.allclose(both.scaling * pair.b @ pair.a, apart, atol=1e-6)
    with pytest.raises(InputError):
        concatenated([])


def test_an_adapter_is_made_once_and_read_back_the_same(tiny_base, prompts, tmp_path, monkeypatch):
    made = PragAdapters(tiny_base, prompts, QUICK, "hash", tmp_path).adapter(DOCUMENT)
    trained = []
    monkeypatch.setattr(prag, "train_adapter", lambda *args: trained.append(args[2]) or train_adapter(*args))
    again = PragAdapters(tiny_base, prompts, QUICK, "hash", tmp_path)
    assert again.adapter(DOCUMENT).to_bytes() == made.to_bytes() and not trained
    again.adapter(OTHER)
    PragAdapters(tiny_base, prompts, PragSettings(learning_rate=1e-3), "hash", tmp_path).adapter(DOCUMENT)
    PragAdapters(tiny_base, prompts, QUICK, "other base", tmp_path).adapter(DOCUMENT)
    assert trained == [OTHER, DOCUMENT, DOCUMENT]


@pytest.mark.parametrize("kept", [True, False])
def test_prepared_adapters_are_at_hand_and_none_is_made_twice(tiny_base, prompts, tmp_path, monkeypatch, kept):
    adapters = PragAdapters(tiny_base, prompts, QUICK, "hash", tmp_path if kept else None)
    batches = []
    monkeypatch.setattr(prag, "train_adapters", lambda *args: batches.append(len(args[2])) or train_adapters(*args))
    monkeypatch.setattr(prag, "train_adapter", lambda *args: pytest.fail("made again"))
    third = AugmentedDocument("x", "", OTHER.questions)
    assert adapters.prepare([DOCUMENT, OTHER, DOCUMENT, third], together=2) == 3
    assert adapters.prepare([OTHER, DOCUMENT]) == 0 and batches == [2, 1]
    assert adapters.combined([DOCUMENT, third]).rank == 4


def test_dyprag_averages_the_documents_adapters(tiny_base):
    translator = random_generator(tiny_base, {"architecture": "dyprag"})
    texts = [DOCUMENT.text, OTHER.text]
    both = translator(translator.encode(tiny_base, [texts, texts[:1]]))
    alone = [translator(translator.encode(tiny_base, [[text]])) for text in texts]
    for key, pair in both.modules.items():
        for place in (0, 1):
            mean = (alone[0].modules[key][place][0] + alone[1].modules[key][place][0]) / 2
            assert torch.allclose(pair[place][0], mean, atol=1e-5)
            assert torch.allclose(pair[place][1], alone[0].modules[key][place][0], atol=1e-5)
    assert both.scaling == 16


def dyprag_recipe(base, output, **changes):
    training = {"steps": 3, "learning_rate": 1e-3, "evaluate_every": 2, "checkpoint_every": 2, "tensorboard": False}
    return DypragRecipe(**{
        "output": output, "base": str(base), "data": {"files": [write_pairs(output.parent)]}, "batch_size": 2,
        "validation_share": 0.2, "training": training, **changes,
    })  # fmt: skip


def test_the_dyprag_loss_is_its_papers_and_zero_distance_means_equal_adapters(tiny_base, prompts, tmp_path):
    recipe = dyprag_recipe(tmp_path, tmp_path)
    adapters = PragAdapters(tiny_base, prompts, recipe.prag, "hash")
    task = DypragTask(tiny_base, build_generator({"architecture": "dyprag"}, tiny_base), recipe, adapters)
    batch = task.batch(0)
    parts = {name: value.item() for name, value in task.losses(batch, task.module, 1).items()}
    expected = parts["loss_generation"] + 100 * parts["loss_mse"] + 0.01 * parts["loss_kl"]
    assert parts["loss"] == pytest.approx(expected, rel=1e-5)
    wanted = LoraBatch.stack([adapters.adapter(document) for document in batch.documents])
    assert parameter_distance(wanted, wanted).item() == 0
    assert parts["loss_mse"] > 0 and [d.text for d in task.batch(0).documents] == [d.text for d in batch.documents]


def test_dyprag_trains_resumes_and_loads_as_a_generator(tiny_base, tiny_base_folder, tmp_path):
    recipe = dyprag_recipe(tiny_base_folder, tmp_path / "run")
    scores = train_dyprag(recipe, quiet=True)
    assert "validation/loss" in scores
    longer = dyprag_recipe(tiny_base_folder, tmp_path / "run", training={**recipe.training.model_dump(), "steps": 4})
    train_dyprag(longer, resume=True, quiet=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert load_generator(tmp_path / "run" / "model", tiny_base).settings.architecture == "dyprag"
    with pytest.raises(ConfigError, match="same rank"):
        train_dyprag(dyprag_recipe(tiny_base_folder, tmp_path / "b", prag={"rank": 3}), quiet=True)


def test_prag_trains_over_pairs_from_a_file_through_the_command(tiny_base_folder, tmp_path):
    rows = [{"documents": [OTHER.text], "question": question, "answer": answer} for question, answer in OTHER.questions]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "prag.yaml"
    file.write_text(f"""
task: prag
output: {tmp_path / "run"}
base: {tiny_base_folder}
data: {{source: pairs, files: [{tmp_path / "pairs.jsonl"}]}}
""")
    run(file, False)
    assert len(list((tmp_path / "run" / "adapters").rglob("*.safetensors"))) == 1
    file.write_text(file.read_text() + "ranks: 3\n")
    with pytest.raises(ConfigError, match="ranks"):
        run(file, False)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_baseline_recipe_parses_and_builds_at_a_tiny_size(file, tiny_base, tiny_base_folder, prompts, tmp_path):
    changes = {"output": tmp_path, "base": str(tiny_base_folder), "dtype": "float32"}
    tiny_data = {"files": [write_pairs(tmp_path)], "num_documents": 3}
    if recipe_values(file)["task"] == "prag":
        recipe = read_recipe(file, PragRecipe)
        assert (recipe.prag.rank, recipe.prag.alpha, recipe.prag.learning_rate) == (2, 32, 3e-4)
        small = PragRecipe(**{**recipe.model_dump(), **changes, "data": tiny_data})
        assert train_prag(small, quiet=True) == {"documents": 3.0, "made": 3.0}
        return
    recipe = read_recipe(file, DypragRecipe)
    assert (recipe.translator.intermediate, recipe.losses.mse_weight, recipe.losses.kl_weight) == (32, 100, 0.01)
    small = DypragRecipe(**{**recipe.model_dump(), **changes, "data": tiny_data})
    task = DypragTask(
        tiny_base, build_generator(small.translator, tiny_base), small, PragAdapters(tiny_base, prompts, small.prag, "hash")
    )
    assert torch.isfinite(task.losses(task.batch(0), task.module, 1)["loss"])
