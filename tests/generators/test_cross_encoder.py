"""Sentences ranked by a cross-encoder, and the training of it."""

from __future__ import annotations

import gzip
import json
import random
import shutil

import numpy as np
import pytest
import torch
from tiny import save_tiny_prepared

from distilledprag.base.prepared import SCORER_FILE, part_of
from distilledprag.cli.train import run as train
from distilledprag.errors import CheckpointError, ConfigError
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.evaluation.runner import Evaluation
from distilledprag.generators import cross_encoder
from distilledprag.generators.cross_encoder import SentenceScorer, base_scorer, readings
from distilledprag.generators.sentence_choice import WordScorer, cut
from distilledprag.pipeline import DistilledPRAG

NAMES = "Bram Clara Velkor Marsen Tovberg Keller Ashford Dunburg Millport Oakport".split()
OTHERS = [
    "The harbour was built in the north by {}.", "A report about the bridge was written by {}.",
    "Nobody had met {} before the storm.",
    "The ship left with grain for {} in the morning.", "{} works as a baker in the town hall.", "An engineer repaired it for {}.",
]  # fmt: skip
QUESTION = "Who pays?"  # shares no word with the sentence that answers it, and every sentence has a name


def context(number: int) -> dict:
    draw = random.Random(number)
    parts = [text.format(draw.choice(NAMES)) for text in draw.sample(OTHERS * 2, 9)]
    answer = f"{draw.choice(NAMES)}son"
    parts.insert(draw.randint(0, 9), f"The rent is due to {answer}.")
    return {"documents": [{"title": "", "text": " ".join(parts)}], "question": QUESTION, "answers": [answer]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with a prepared tiny base, and the run that trained its scorer."""
    folder = tmp_path_factory.mktemp("scorer")
    save_tiny_prepared(folder / "base")
    with gzip.open(folder / "rows_train.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(context(number)) + "\n" for number in range(90))
    (folder / "recipe.yaml").write_text(
        f"task: scorer\noutput: {folder / 'run'}\nbase: {folder / 'base'}\ndtype: float32\n"
        "scorer: {layer: 1, rank: 8}\n"
        f"data: {{files: [{folder / 'rows_train.jsonl.gz'}], batch_size: 12, fewest: 20, most: 700}}\n"
        "training: {steps: 40, learning_rate: 0.005, evaluate_every: 40, checkpoint_every: 40, tensorboard: false}\n"
    )
    train(folder / "recipe.yaml", resume=False)
    return folder


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_finds_answers_that_share_no_word_with_the_question(trained):
    log = records(trained / "run")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert log[-1]["kept/0.35"] > log[-1]["words/0.35"] + 0.2
    record = json.loads((trained / "run" / "model" / SCORER_FILE).with_suffix(".json").read_text())
    assert record["answer_kept"]["kept/0.35"] == pytest.approx(log[-1]["kept/0.35"])


def test_a_run_that_stopped_goes_on_with_the_same_losses(trained, tmp_path):
    def losses(name, steps, resume=False):
        constant = ["training.schedule=trapezoid", "training.warmup_ratio=0", "training.decay_ratio=0"]
        changed = [f"output={tmp_path / name}", f"training.steps={steps}", *constant]
        train(trained / "recipe.yaml", resume, changed)
        return [record["loss"] for record in records(tmp_path / name)]

    losses("stopped", 4)
    assert losses("stopped", 6, resume=True) == pytest.approx(losses("whole", 6), abs=1e-6)


@pytest.fixture
def base(trained, tmp_path):
    """The prepared base with the trained scorer in its folder and in its encoder's."""
    for name in ("base", "base-encoder"):
        shutil.copytree(trained / name, tmp_path / name)
        shutil.copyfile(trained / "run" / "model" / SCORER_FILE, part_of(tmp_path / name, SCORER_FILE))
    return tmp_path / "base"


def test_a_base_with_a_scorer_chooses_by_reading_and_one_without_by_words(base, trained):
    texts = [context(number)["documents"][0]["text"] for number in range(1000, 1012)]

    def found(folder):
        prag = DistilledPRAG.from_pretrained(folder, dtype=torch.float32)
        kept = [prag.choice.chosen(QUESTION, [text], 70)[0] for text in texts]
        assert all(len(part) < len(text) for part, text in zip(kept, texts, strict=True))
        return sum("The rent" in part for part in kept)

    assert found(base) == len(texts) > found(trained / "base")


def test_empty_passages_keep_their_numbers_and_every_sentence_has_a_score(base):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    scorer = SentenceScorer(prag.prompts, prag.base, base_scorer(base, prag.base))
    passages = ["", context(1)["documents"][0]["text"], " ", context(2)["documents"][0]["text"]]
    sentences = cut(passages, prag.prompts.document_length)
    scores = scorer.scores(QUESTION, passages, sentences)
    assert scores.shape == (len(sentences),) and all(abs(scores) < 100)
    kept = prag.choice.chosen(QUESTION, passages, 70)
    assert len(kept) == 4 and kept[0] == kept[2] == "" and "rent" in kept[1] + kept[3]


def test_long_passages_are_read_in_parts_and_no_base_weight_changes(base):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in prag.base.model.state_dict().items()}
    net = base_scorer(base, prag.base)
    passages = [context(number)["documents"][0]["text"] for number in range(3)]
    sentences = cut(passages, prag.prompts.document_length)
    by_words = np.arange(len(sentences), dtype=float)
    parts = list(readings(prag.prompts, QUESTION, sentences, by_words, longest=80))
    assert len(parts) > 3 and np.concatenate([part.word_scores for part in parts]).tolist() == by_words.tolist()
    for part in parts:
        assert (part.owners >= 0).sum() <= 80 and part.owners.max() == len(part.word_scores) - 1
    assert max((one.size for one in sentences), default=0) < 80

    with torch.no_grad():  # merged into a copy, or added for the pass: the same scores
        whole = net(prag.base, list(readings(prag.prompts, QUESTION, sentences, by_words * 0, longest=10_000)))[0]
    scorer = SentenceScorer(prag.prompts, prag.base, net)
    words = WordScorer.default().scores(QUESTION, passages, sentences)
    merged = scorer.scores(QUESTION, passages, sentences) - float(net.word_score) * words
    assert torch.tensor(merged).float() == pytest.approx(whole, abs=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in prag.base.model.state_dict().items())


def test_layers_are_copied_only_when_sentences_are_scored(base, monkeypatch):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    text = context(3)["documents"][0]["text"]

    def never(*_):
        raise AssertionError("layers were copied")

    monkeypatch.setattr(cross_encoder, "copied_layers", never)
    assert prag.choice.fitting(QUESTION, [text], 10_000) == [text]
    with pytest.raises(AssertionError, match="copied"):
        prag.choice.chosen(QUESTION, [text], 60)


def test_what_has_no_end_is_read_in_part(base):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    endless = "rent " * 30_000
    sentences = cut([endless, "The rent is due to Keller."], prag.prompts.document_length)
    parts = list(readings(prag.prompts, endless, sentences, np.zeros(2), longest=100))
    assert len(parts) == 2 and all(len(part.ids) < 300 for part in parts)


def test_every_token_sees_what_comes_after_it(base):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    net = base_scorer(base, prag.base)
    text = context(5)["documents"][0]["text"]

    def first_score(other):
        sentences = cut([text, other], prag.prompts.document_length)
        (one,) = readings(prag.prompts, QUESTION, sentences, np.zeros(len(sentences)), 10_000)
        with torch.no_grad():
            return float(net(prag.base, [one])[0, 0])

    assert first_score("The rent is due to Keller.") != pytest.approx(first_score("Nobody had met Clara."), abs=1e-6)


def test_evaluation_knows_answers_of_another_scorer(base):
    settings = {"data": {"name": "rows", "file": "x.jsonl"}, "output": "x", "base": str(base), "dtype": "float32"}
    chosen = Evaluation(EvaluationRecipe(**settings, methods=["state_chosen"]))
    assert chosen.checkpoints["sentence_scorer"] == base_scorer(base, chosen.setting.base).identity
    assert "sentence_scorer" not in Evaluation(EvaluationRecipe(**settings, methods=["state"])).checkpoints


def test_a_layer_that_is_not_there_is_refused(base, trained):
    with pytest.raises(ConfigError, match="layer 9 of the sentence scorer: there are layers 0 to"):
        train(trained / "recipe.yaml", False, ["scorer.layer=9", f"output={trained / 'deep'}"])
    data = part_of(base, SCORER_FILE).read_bytes()
    part_of(base, SCORER_FILE).write_bytes(data.replace(b'\\"layer\\":1', b'\\"layer\\":9'))
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    with pytest.raises(CheckpointError, match="does not fit: layer 9"):
        base_scorer(base, prag.base)


def test_a_damaged_scorer_is_refused_and_a_missing_one_is_none(base, trained):
    prag = DistilledPRAG.from_pretrained(base, dtype=torch.float32)
    assert base_scorer(trained / "base", prag.base) is None
    data = part_of(base, SCORER_FILE).read_bytes()
    for damaged in (data[:100], data[:-10], b"", data.replace(b"longest", b"longish")):
        part_of(base, SCORER_FILE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="copy the scorer again"):
            DistilledPRAG.from_pretrained(base).choice.chosen(QUESTION, [context(0)["documents"][0]["text"]], 0.1)
