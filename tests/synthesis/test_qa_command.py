"""`dprag synthesize` as a user runs it: against a real server, killed in the middle, and with every mistake."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from qa_server import COMPLETION_TOKENS, MODEL, PROMPT_TOKENS, Answer, LlmServer, document, write_as_asked, written

from distilledprag.distillation.pair_data import read_pairs

COUNT = 8
CHILD = [sys.executable, "-c", "from distilledprag.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def docs(tmp_path):
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps({"text": document(i), "title": f"T{i}"}) + "\n" for i in range(COUNT)))
    return file


@pytest.fixture
def synthesize(dprag, docs, tmp_path):
    """Run the command in this process; returns (exit code, stdout, stderr)."""

    def run(server, *arguments, out="pairs.jsonl", model=MODEL):
        url = ["--base-url", server.url] if server else []
        return dprag("synthesize", "--docs", docs, "--out", tmp_path / out, "--model", model, *url, *arguments)

    return run


def report_of(out):
    return json.loads(out.with_name(out.name + ".report.json").read_text())


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_training_reads_what_is_written(synthesize, tmp_path, name):
    with LlmServer() as server:
        code, _, err = synthesize(server, out=name)
    assert code == 0, err
    pairs = list(read_pairs(tmp_path / name))
    assert [pair.kind for pair in pairs].count("single") == 2 * COUNT
    assert [pair.kind for pair in pairs].count("cross") == 5 * COUNT
    assert all(len(pair.documents) == (1 if pair.kind == "single" else 2) for pair in pairs)
    assert {text for pair in pairs for text in pair.documents} == {document(i) for i in range(COUNT)}
    assert all(pair.full_answer for pair in pairs)


def test_rows_have_the_fields_of_the_contract(synthesize, tmp_path):
    with LlmServer() as server:
        synthesize(server)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert all(list(row) == ["documents", "question", "answer", "full_answer", "kind"] for row in rows)


def test_a_server_with_every_fault_gives_the_same_pairs_as_a_faultless_one(synthesize, tmp_path):
    with LlmServer() as server:
        synthesize(server, out="good.jsonl")
    quick = {"Retry-After-Ms": "1"}
    faults = [
        Answer(status=429, headers={"Retry-After-Ms": "20"}),
        Answer(status=500, headers=quick),
        Answer(status=503, raw=b"<html>busy</html>", headers=quick),
    ]

    def script(number, body):
        if number < len(faults):
            return faults[number]
        text = written(body)
        return Answer([text, f"```json\n{text}\n```", text.replace("}]", "},]"), text[:-2]][number % 4])

    with LlmServer(script) as server:
        code, out, err = synthesize(server, out="bad.jsonl")
    assert code == 0, err
    assert (tmp_path / "bad.jsonl").read_text() == (tmp_path / "good.jsonl").read_text()
    report = report_of(tmp_path / "bad.jsonl")
    assert report["retried"] == {"HTTP 429": 1, "HTTP 500": 1, "HTTP 503": 1} and "3 tries repeated" in out


def test_the_report_says_what_was_rejected_why_and_what_it_cost(synthesize, tmp_path, docs):
    def script(number, body):
        pairs = json.loads(written(body))["pairs"]
        return Answer(json.dumps([*pairs, {"question": "When was it founded?", "answer": "1900"}]))

    with LlmServer(script) as server:
        code, out, err = synthesize(server, "--prompt-price", 2, "--completion-price", 8, "--partners", 0)
    assert code == 0, err
    report = report_of(tmp_path / "pairs.jsonl")
    rejected = report["rejected"]["needs_title"]
    assert rejected["count"] == COUNT and rejected["examples"][0] == {"question": "When was it founded?", "answer": "1900"}
    assert "needs_title" in out
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl.rejected.jsonl").read_text().splitlines()]
    assert len(lines) == COUNT and lines[0]["documents"] == [document(0)] and lines[0]["reason"] == "needs_title"
    usage = report["requests"]["all_runs"]
    assert usage["answered"] == COUNT and usage["prompt_tokens"] == COUNT * PROMPT_TOKENS
    assert usage["cost_usd"] == pytest.approx(COUNT * (PROMPT_TOKENS * 2 + COMPLETION_TOKENS * 8) / 1e6)
    assert report["kinds"]["single"] == {"items": COUNT, "unfinished": 0, "below_minimum": 0, "pairs": 2 * COUNT}
    assert report["documents"] == {"read": COUNT, "used": COUNT, "skipped": {}, "failed": []}
    assert report["config"]["seed"] == 0 and report["config"]["docs"] == [str(docs)]
    assert f"${usage['cost_usd']:.4f}" in out and re.search(r"16 pairs, [\d.,]+ pairs/s", err)


def test_a_run_killed_in_the_middle_goes_on_and_sends_no_answered_request_again(synthesize, docs, tmp_path):
    with LlmServer() as server:
        synthesize(server, out="unbroken.jsonl")
    concurrency, answered = 3, 6

    def stuck(number, body):
        return Answer(written(body), hold=None if number < answered else server.released)

    with LlmServer(stuck) as server:
        command = [*CHILD, "synthesize", "--docs", str(docs), "--out", str(tmp_path / "pairs.jsonl"), "--model", MODEL]
        child = subprocess.Popen([*command, "--base-url", server.url, "--concurrency", str(concurrency)], stderr=subprocess.PIPE)
        # Every one of the workers waits for a reply, so that all earlier replies are in the journal.
        server.wait_for(answered + concurrency)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stderr.close()
        before = server.bodies[:answered]
    assert not (tmp_path / "pairs.jsonl").exists()
    with (tmp_path / "pairs.jsonl.journal.jsonl").open("ab") as journal:
        journal.write(b'{"key": "half a li')

    with LlmServer() as server:
        code, _, err = synthesize(server)
    assert code == 0, err
    assert f"holds {answered} answered requests" in err
    assert not [body for body in server.bodies if body in before]
    assert len(server.bodies) + answered == 2 * COUNT == report_of(tmp_path / "pairs.jsonl")["requests"]["all_runs"]["answered"]
    assert (tmp_path / "pairs.jsonl").read_text() == (tmp_path / "unbroken.jsonl").read_text()

    with LlmServer() as server:
        assert synthesize(server)[0] == 0 and not server.bodies  # a finished run sends nothing


def test_new_documents_cost_only_their_own_requests(synthesize, docs):
    with LlmServer() as server:
        synthesize(server, "--partners", 0)
        with docs.open("a") as file:
            file.write(json.dumps({"text": document(COUNT)}) + "\n")
        assert synthesize(server, "--partners", 0)[0] == 0
    assert len(server.bodies) == COUNT + 1


def test_requests_that_fail_are_named_and_the_others_written(synthesize, tmp_path):
    def script(number, body):
        return Answer("too long", status=400) if document(1) in str(body) else write_as_asked(number, body)

    with LlmServer(script) as server:
        code, _, err = synthesize(server, "--partners", 0)
        assert code == 1 and "1 of 8 items are unfinished" in err and "HTTP 400" in err and "Traceback" not in err
        assert len(list(read_pairs(tmp_path / "pairs.jsonl"))) == 2 * (COUNT - 1)
        server.script = write_as_asked
        assert synthesize(server, "--partners", 0)[0] == 0
    assert len(server.bodies) == COUNT + 1 and len(list(read_pairs(tmp_path / "pairs.jsonl"))) == 2 * COUNT


def test_the_key_travels_and_stays_out_of_every_file(synthesize, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    (tmp_path / "key").write_text("from-the-file\n")
    with LlmServer() as server:
        assert synthesize(server, out="a.jsonl")[0] == 0
        assert synthesize(server, "--api-key-file", tmp_path / "key", out="b.jsonl")[0] == 0
    assert set(server.keys) == {"Bearer from-the-environment", "Bearer from-the-file"}
    written_files = [file for file in tmp_path.iterdir() if file.name != "key"]
    assert len(written_files) >= 8 and not any("from-the" in file.read_text() for file in written_files)


def test_no_more_requests_than_asked_for_are_under_way(synthesize):
    with LlmServer() as server:
        synthesize(server, "--concurrency", 2)
    assert 1 <= server.most_at_once <= 2


def test_options_reach_the_requests(synthesize):
    arguments = ["--temperature", -1, "--max-tokens", 77, "--response-format", "json_schema", "--extra-body", '{"top_p": 0.5}']
    with LlmServer() as server:
        assert synthesize(server, *arguments, "--titles", "--limit", 1)[0] == 0
    (body,) = server.bodies
    assert "temperature" not in body and body["max_tokens"] == 77 and body["top_p"] == 0.5
    assert body["response_format"]["json_schema"]["strict"] is True
    assert re.search(r"<document>\nT\d: ", body["messages"][-1]["content"])


MISTAKES = {
    "another ending": (["--out", "pairs.csv"], "must end in"),
    "no documents": (["--docs", "none.jsonl"], "does not exist"),
    "no address": (["--base-url", "nowhere"], "not a web address"),
    "contradiction": (["--single-min", "6"], "contradict"),
    "one price": (["--prompt-price", "1"], "both prices"),
    "budget without prices": (["--budget", "1"], "needs the prices"),
    "unknown format": (["--response-format", "xml"], "json_schema"),
    "extra that is not an object": (["--extra-body", "[]"], "not a JSON object"),
    "key file that is missing": (["--api-key-file", "none.txt"], "none.txt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gives_one_message_and_exit_code_one_before_any_request(synthesize, case):
    arguments, message = MISTAKES[case]
    with LlmServer() as server:
        code, _, err = synthesize(server, *arguments)
    assert code == 1 and "error:" in err and message in err.replace("\n", " ") and "Traceback" not in err
    assert not server.bodies


def test_a_refused_key_stops_the_run_with_one_message(synthesize):
    with LlmServer(lambda *_: Answer("bad key", status=401)) as server:
        code, _, err = synthesize(server)
    assert code == 1 and "refused the API key" in err and "--api-key-file" in err and "Traceback" not in err


def save_tiny_model(folder, template):
    """A random Llama with a word for a token, and a chat template or none."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *[f"w{i}" for i in range(62)]]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")
    if template:
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}w1"
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_local_model_answers_in_batches_as_it_would_alone(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from distilledprag.synthesis.llm import Request, RequestFailed
    from distilledprag.synthesis.local import LocalModel

    torch.manual_seed(0)
    save_tiny_model(tmp_path / "model", template=True)
    contents = ["w3 w4", "w5 w6 w7 w8", "w9 " * 600, "w10"]
    requests = [Request("write", [{"role": "user", "content": text}], 0.0, 6) for text in contents]

    async def ask(model):
        return await asyncio.gather(*(model.reply(request) for request in requests), return_exceptions=True)

    replies = asyncio.run(ask(LocalModel(str(tmp_path / "model"), batch=3)))
    assert isinstance(replies[2], RequestFailed) and "512 tokens" in str(replies[2])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    for text, reply in zip(contents, replies, strict=True):
        if not isinstance(reply, RequestFailed):
            ids = [int(word[1:]) + 2 for word in text.split()] + [3]
            alone = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=1)[0, len(ids) :].tolist()
            expected = alone[: alone.index(1)] if 1 in alone else alone
            assert reply.text == " ".join(f"w{i - 2}" if i > 1 else "" for i in expected).strip()
            assert (reply.prompt_tokens, reply.completion_tokens) == (len(ids), len(expected))


def test_a_local_model_out_of_memory_tells_every_request_so(tmp_path, monkeypatch):
    import torch

    from distilledprag.errors import EndpointError
    from distilledprag.synthesis.llm import Request
    from distilledprag.synthesis.local import LocalModel

    def full(**arguments):
        raise torch.OutOfMemoryError

    save_tiny_model(tmp_path / "model", template=True)
    request = Request("write", [{"role": "user", "content": "w3"}], 0.0, 6)

    local = LocalModel(str(tmp_path / "model"), batch=3)
    monkeypatch.setattr(local.model, "generate", full)

    async def ask():
        return await asyncio.gather(*(local.reply(request) for _ in range(5)), return_exceptions=True)

    failures = asyncio.run(ask())
    assert [type(failure) for failure in failures] == [EndpointError] * 5 and "--concurrency" in str(failures[0])


def test_a_local_model_is_used_without_an_endpoint(synthesize, tmp_path):
    save_tiny_model(tmp_path / "model", template=False)
    code, _, err = synthesize(None, "--limit", 2, "--partners", 0, "--max-tokens", 4, model=tmp_path / "model")
    assert code == 1 and "no pair" in err and "report.json" in err
    report = report_of(tmp_path / "pairs.jsonl")
    assert report["requests"]["all_runs"]["answered"] == 4 and report["rejected"]["cut_off"]["count"] == 4
    assert report["kinds"]["single"]["below_minimum"] == 2 and (tmp_path / "pairs.jsonl").read_text() == ""
    code, _, err = synthesize(None, model=tmp_path / "nothing")
    assert code == 1 and "cannot be loaded as a local model" in err and "--base-url" in err and "Traceback" not in err
