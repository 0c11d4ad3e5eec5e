"""The reader's training: contexts, batches, whole runs on a tiny model, and runs that are killed and go on."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from processes import Forked
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.masks import add_mask_tokens
from distilledprag.base.prepare import prepare_base
from distilledprag.base.reader import load_tensors
from distilledprag.distillation import reader_training
from distilledprag.distillation.contexts import NOT_FOUND, Context, ContextMixer, load_contexts
from distilledprag.distillation.reader_batches import ContextBatches, ContextTokenizer, pack_contexts
from distilledprag.distillation.reader_training import ReaderSettings, ReaderTraining, train_reader
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder

ROWS = [
    {
        "documents": [{"title": "", "text": "Anna lives in Oakport. She bakes bread. The shop opens at six."}],
        "question": q,
        "answers": [a],
    }
    for q, a in (("Where does Anna live?", "Oakport"), ("What does she bake?", "bread"))
] + [
    {
        "documents": [
            {"title": "Velkor", "text": "It is based in Millport."},
            {"title": "Bram", "text": "He founded Velkor in 1962."},
        ],
        "question": "Where is the firm that Bram founded?",
        "answers": ["Millport"],
    }
]


def write_rows(folder):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path)


@pytest.fixture
def prompts():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    return PromptBuilder(tokenizer, add_mask_tokens(model, tokenizer, 16).mask_id), tokenizer


def test_rows_with_the_same_passages_are_one_context(data):
    first, second = load_contexts(data)
    assert [answer for _, answer in first.questions] == ["Oakport", "bread"] and not first.joint
    assert second.joint and second.passages[0] == "Velkor\nIt is based in Millport."


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"documents": []}\n')
    with pytest.raises(InputError, match=r"bad.jsonl, line 1"):
        load_contexts(tmp_path / "bad.jsonl")


def test_mixed_contexts_keep_their_answers_in_the_passages(data):
    mixer = ContextMixer(load_contexts(data), seed=1, weights={})
    seen = set()
    for context in map(mixer.visit, range(300)):
        seen.add(len(context.passages))
        for _, answer in context.questions:
            assert answer == NOT_FOUND or any(answer.lower() in passage.lower() for passage in context.passages)
    assert {1, 2} <= seen


def test_a_visit_is_the_same_whatever_was_visited_before(data):
    in_order, other = (ContextMixer(load_contexts(data), seed=1, weights={"rows": 1.5}) for _ in range(2))
    contexts = [in_order.visit(number) for number in range(20)]
    assert [other.visit(number) for number in reversed(range(20))] == contexts[::-1]
    assert len(set(contexts)) > 4  # they vary


def one_batch(builder, contexts, rows=2):
    tokenize = ContextTokenizer(builder, longest=400, most_masks=200, left_out=0.0)
    items = [tokenize(context, random.Random(0)) for context in contexts]
    return pack_contexts(items, rows=rows, length=400, mask_id=builder.mask_token_id, padding=0)


def test_batch_hides_documents_from_the_student_and_lines_up_with_the_encoder(prompts):
    builder, tokenizer = prompts
    context = Context(("Anna lives in Oakport.", "She bakes bread."), (("Where?", "Oakport"), ("What?", "bread")), "x")
    batch, taken = one_batch(builder, [context] * 50)
    assert 1 < batch.contexts == taken < 50
    teacher_labels, student_labels = (rows.labels[rows.is_supervised] for rows in (batch.teacher, batch.student))
    assert teacher_labels.equal(student_labels)
    student = batch.student.ids.flatten()
    assert (student[batch.targets] == builder.mask_token_id).all()
    assert (student == builder.mask_token_id).sum() == len(batch.targets)
    # The state for a mask is that of the very token that the teacher has there.
    assert batch.encoder.ids.flatten()[batch.sources].equal(batch.teacher.ids.flatten()[batch.targets])
    assert "Oakport" in tokenizer.decode(teacher_labels[: 2 * 8])


def test_a_question_sees_its_context_and_itself_only(prompts):
    builder, _ = prompts
    context = Context(("Anna lives in Oakport.",), (("Where?", "Oakport"), ("Who?", "Anna")), "x")
    batch, _ = one_batch(builder, [context] * 9, rows=1)
    seen = batch.teacher.attention(torch.float32)[0, 0] == 0
    segments, owners = batch.teacher.segments[0], batch.teacher.owners[0]
    second = ((segments == 2) & (owners == 0)).nonzero()[-1, 0]
    assert seen[second, (segments == 0) & (owners == 0)].all() and not seen[second, (segments == 1) & (owners == 0)].any()
    assert not seen[second, owners == 1].any()


def test_a_context_that_fits_in_no_batch_is_passed_over(prompts):
    builder, _ = prompts
    long = Context(("Anna lives in Oakport. " * 100,), (("Where?", "Oakport"),), "x")
    short = Context(("Anna lives in Oakport.",), (("Where?", "Oakport"),), "x")
    tokenize = ContextTokenizer(builder, longest=4000, most_masks=2000, left_out=0.0)
    items = [tokenize(context, random.Random(0)) for context in (long, short)]
    batch, taken = pack_contexts([items[0], None, items[1]], rows=1, length=400, mask_id=builder.mask_token_id, padding=0)
    assert (batch.contexts, taken) == (1, 3)


def test_contexts_of_which_none_fits_end_the_run_with_advice(prompts):
    with pytest.raises(InputError, match="sequence_length"):
        pack_contexts(itertools.repeat(None), rows=1, length=16, mask_id=prompts[0].mask_token_id, padding=0)


@pytest.mark.parametrize("streams", [1, 2])
def test_batches_go_on_where_a_checkpoint_says(data, prompts, streams):
    builder, _ = prompts

    def batches():
        mixer = ContextMixer(load_contexts(data), seed=3, weights={})
        tokenize = ContextTokenizer(builder, longest=300, most_masks=200)
        sizes = {"rows": 1, "length": 300, "mask_id": builder.mask_token_id, "padding": 0}
        return ContextBatches(mixer, tokenize, **sizes, streams=streams)

    def ids(drawn, count):
        return [next(drawn).teacher.ids.tolist() for _ in range(count)]

    whole, broken, again = batches(), batches(), batches()
    expected = ids(whole.draw(), 7)
    assert ids(broken.draw(), 3) == expected[:3]
    again.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    assert ids(again.draw(), 4) == expected[3:]
    assert again.state_dict() == whole.state_dict()


TINY_RUN = ReaderSettings(
    steps=8, rank=2, layer=2, plain_layer=1, masks=64, batch_size=2, sequence_length=512, warmup_steps=2, moment_batches=1,
    states_from=0.2, plain_from=0.4, checkpoint_minutes=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("reader") / "base", tiny_tokenizer()
    tiny_model(tokenizer, num_hidden_layers=4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(base):
    """The folder of an unbroken run."""
    training = train_reader(base, [write_rows(base.parent)], base.parent / "run", TINY_RUN)
    assert training.a is not None and training.step == 8
    return base.parent / "run"


def logged(run):
    """The log's records of steps, less what depends on the clock."""
    clock = ("minutes", "step_seconds", "examples_per_second")
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in clock} for record in records]


def test_a_whole_run_saves_what_prepare_base_merges(whole, base, tmp_path):
    first = json.loads((whole / "log.jsonl").read_text().splitlines()[0])
    assert {"step", "loss", "loss_generation", "loss_cosine", "loss_kl", "examples_per_second"} <= first.keys()
    assert all(torch.isfinite(t).all() for t in load_tensors(whole / "reader.safetensors").values())
    record = prepare_base(base, tmp_path / "served", weights=whole, count=64)
    assert record.reader and (record.layer, record.plain_layer) == (2, 1)
    answer = DistilledPRAG.from_pretrained(tmp_path / "served").answer("Where?", documents=["Anna lives in Oakport."])
    assert answer.sent.masks > 0


def test_a_run_bounded_by_time_goes_on_for_the_time_that_is_left(data, base, tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(reader_training, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))  # a second a step
    settings = replace(TINY_RUN, steps=None, minutes=5 / 60, checkpoint_minutes=3.0)
    training = train_reader(base, [data], tmp_path / "run", settings)
    assert (training.step, training.elapsed) == (5, 5) and training.a is not None
    again = train_reader(base, [data], tmp_path / "run", replace(settings, minutes=7 / 60), resume=True)
    assert (again.step, again.elapsed) == (7, 7)


def test_a_run_is_not_mixed_with_another(data, base, tmp_path):
    settings = replace(TINY_RUN, steps=1)
    train_reader(base, [data], tmp_path / "run", settings)
    with pytest.raises(ConfigError, match="--resume"):
        train_reader(base, [data], tmp_path / "run", settings)
    with pytest.raises(ConfigError, match=r"training\.learning_rate was 0\.001 and is now 0\.1"):
        train_reader(base, [data], tmp_path / "run", replace(settings, learning_rate=0.1), resume=True)
    data.write_text(data.read_text().replace("Oakport", "Ashford"))
    with pytest.raises(ConfigError, match="data was"):
        train_reader(base, [data], tmp_path / "run", settings, resume=True)


def test_a_damaged_checkpoint_is_named(data, base, tmp_path):
    train_reader(base, [data], tmp_path / "run", replace(TINY_RUN, steps=1))
    state = tmp_path / "run" / "state" / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        train_reader(base, [data], tmp_path / "run", replace(TINY_RUN, steps=2), resume=True)


def train_killed_at(step, base, data, run):
    save = ReaderTraining.save

    def killed(training, folder):
        if training.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(training, folder)

    ReaderTraining.save = killed
    train_reader(base, [data], run, TINY_RUN)


@pytest.mark.parametrize("killed_at", [3, 6])  # before and after masks and A are computed
def test_a_run_killed_and_resumed_is_the_unbroken_one(data, base, whole, tmp_path, killed_at):
    broken = tmp_path / "broken"
    child = Forked(train_killed_at, killed_at, base, data, broken, CUDA_VISIBLE_DEVICES="")
    assert child.wait() == -signal.SIGKILL
    assert json.loads((broken / "state" / "progress.json").read_text()) == {"step": killed_at - 1}
    train_reader(base, [data], broken, TINY_RUN, resume=True)
    assert logged(broken) == logged(whole)
    for file in ("reader.safetensors", "masks.safetensors"):
        ours, theirs = load_tensors(broken / file), load_tensors(whole / file)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
