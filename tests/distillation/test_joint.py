"""The reader's training: contexts, packing, and a whole run on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.numbered_masks import add_mask_tokens
from distilledprag.base.prepare import prepare_base
from distilledprag.base.reader import load_tensors
from distilledprag.distillation.examples import NOT_FOUND, Context, ContextMixer, load_contexts
from distilledprag.distillation.joint import JointSettings, train_reader
from distilledprag.distillation.packing import IGNORED, ContextTokenizer, packed_batches
from distilledprag.errors import InputError
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


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


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
    mixer = iter(ContextMixer(load_contexts(data), seed=1, weights={}))
    seen = set()
    for context in (next(mixer) for _ in range(300)):
        seen.add(len(context.passages))
        for _, answer in context.questions:
            assert answer == NOT_FOUND or any(answer.lower() in passage.lower() for passage in context.passages)
    assert {1, 2} <= seen


def test_batch_hides_documents_from_the_student_and_lines_up_with_the_encoder(prompts):
    builder, tokenizer = prompts
    context = Context(("Anna lives in Oakport.", "She bakes bread."), (("Where?", "Oakport"), ("What?", "bread")), "x")
    tokenize = ContextTokenizer(builder, longest=400, most_masks=200, seed=0, left_out=0.0)
    batch = next(packed_batches(iter([tokenize(context)] * 50), rows=2, length=400, mask_id=builder.mask_token_id, padding=0))
    assert batch.teacher.labels[batch.teacher.labels != IGNORED].equal(batch.student.labels[batch.student.labels != IGNORED])
    student = batch.student.ids.flatten()
    assert (student[batch.targets] == builder.mask_token_id).all()
    assert (student == builder.mask_token_id).sum() == len(batch.targets)
    # The state for a mask is that of the very token that the teacher has there.
    assert batch.encoder.ids.flatten()[batch.sources].equal(batch.teacher.ids.flatten()[batch.targets])
    answers = tokenizer.decode(batch.teacher.labels[batch.teacher.labels != IGNORED][: 2 * 8])
    assert "Oakport" in answers


def test_a_question_sees_its_context_and_itself_only(prompts):
    builder, _ = prompts
    context = Context(("Anna lives in Oakport.",), (("Where?", "Oakport"), ("Who?", "Anna")), "x")
    tokenize = ContextTokenizer(builder, longest=400, most_masks=200, seed=0, left_out=0.0)
    batch = next(packed_batches(iter([tokenize(context)] * 9), rows=1, length=400, mask_id=builder.mask_token_id, padding=0))
    seen = batch.teacher.attention(torch.float32)[0, 0] == 0
    segments, owners = batch.teacher.segments[0], batch.teacher.owners[0]
    second = ((segments == 2) & (owners == 0)).nonzero()[-1, 0]
    assert seen[second, (segments == 0) & (owners == 0)].all() and not seen[second, (segments == 1) & (owners == 0)].any()
    assert not seen[second, owners == 1].any()


def test_a_whole_run_saves_what_prepare_base_merges_and_resumes(data, tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, num_hidden_layers=4).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = JointSettings(
        minutes=0.05,
        rank=2,
        layer=2,
        plain_layer=1,
        masks=64,
        rows=2,
        length=512,
        warmup=2,
        moment_batches=1,
        states_from=0.2,
        plain_from=0.4,
    )
    training = train_reader(tmp_path / "base", [data], tmp_path / "run", settings)
    assert training.a is not None and training.step > 1
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert {"step", "loss", "loss_generation", "loss_cosine", "loss_kl", "examples_per_second"} <= first.keys()
    assert all(torch.isfinite(t).all() for t in load_tensors(tmp_path / "run" / "reader.safetensors").values())
    longer = JointSettings(**{**vars(settings), "minutes": 0.07})
    again = train_reader(tmp_path / "base", [data], tmp_path / "run", longer, resume=True)
    assert again.step > training.step
    record = prepare_base(tmp_path / "base", tmp_path / "served", weights=tmp_path / "run", count=64)
    assert record.reader and (record.layer, record.plain_layer) == (2, 1)
    assert (
        DistilledPRAG.from_pretrained(tmp_path / "served").answer("Where?", documents=["Anna lives in Oakport."]).sent.masks > 0
    )
