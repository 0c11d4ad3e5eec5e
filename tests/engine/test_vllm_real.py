"""`dprag engine --backend vllm` with the shipped base on a real vLLM (`make test-vllm`): its answers, and what it withstands."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from engine_cases import KEY, OTHER_KEY, Running
from hostile import damage, damaged, hostile_files, small_adapter, victim
from hypothesis import HealthCheck, Phase, given, settings
from processes import Forked, server
from waiting import until

from distilledprag.base.default import default_base
from distilledprag.base.prepared import prepared_record
from distilledprag.lora.peft_format import tensor_names
from distilledprag.lora.validation import AdapterSpec
from distilledprag.pipeline import DistilledPRAG

PYTHON = os.environ.get("DPRAG_VLLM_PYTHON")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="needs vLLM: make test-vllm")]
QUESTIONS = 50
HELD = 5  # adapters that vLLM holds, fewer than the questions' documents
VLLM_ARGS = "--enforce-eager --max-model-len 1024 --max-num-batched-tokens 512"
MUTATIONS = 60


@dataclass
class Stage:
    """vllm, embedded: the two engines. process: of the first."""

    vllm: Running
    embedded: Running
    process: Forked
    prag: DistilledPRAG
    spec: AdapterSpec

    @property
    def engines(self):
        return self.vllm, self.embedded

    def adapter(self, *documents):
        return self.prag.encode(list(documents)).to_bytes()

    def prompt(self, question, *documents):
        return self.prag.prompts.build(question, list(documents)).masked_ids


def folders():
    return set(Path("/dev/shm").glob("dprag-vllm-*"))


def group_of(folder):
    return int((folder / "group").read_text())


def processes_of(group):
    """Ids of the processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def vllm_engine(folder, *options):
    """An engine on vLLM: its process and its address."""
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n{OTHER_KEY}\n")
    options = ["--max-num-seqs", 8, "--max-loras", 4, "--max-cpu-loras", HELD, "--request-timeout", 600, *options]
    arguments = ["engine", "--backend", "vllm", "--port", 0, "--api-key-file", keys, "--served-model-name", "base"]
    with server(*arguments, *options, "--vllm-args", VLLM_ARGS, VLLM_CPU_KVCACHE_SPACE="1") as running:
        yield running


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    prag = DistilledPRAG.from_pretrained(dtype=torch.float32)
    module = f"layers.{prepared_record(default_base()).plain_layer}.mlp.down_proj"
    config = prag.base.model.config
    spec = AdapterSpec({module: (config.intermediate_size, config.hidden_size)}, identity=prag.base.identity, maximum_rank=512)
    with vllm_engine(folder) as (process, url):
        keys = folder / "keys"
        embedded = ["--port", 0, "--api-key-file", keys, "--max-lora-rank", 512, "--served-model-name", "base"]
        with server("engine", *embedded) as (_, other):
            yield Stage(Running(url, None, 600), Running(other, None, 600), process, prag, spec)


def everyday(count):
    """Questions and documents, of as many different documents as there are."""
    rows = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "everyday.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(rows)
    return [(row["question"], [document["text"] for document in row["documents"]]) for row in rows[:count]]


def asked(running, prompt, model="base", key=KEY, **fields):
    response = running.complete(prompt, model, key=key, **{"max_tokens": 24, **fields})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def test_greedy_answers_equal_the_embedded_backends(stage):
    """With plain adapters, more of them than vLLM holds, and without any, several at one time."""
    cases = everyday(QUESTIONS)
    uploaded = {tuple(documents): stage.adapter(*documents) for _, documents in cases}
    assert len(uploaded) > 2 * HELD
    both = [(where, {key: where.upload(data)["model"] for key, data in uploaded.items()}) for where in stage.engines]

    def answers(case):
        question, documents = case
        prompt = stage.prompt(question, *documents)
        return [(asked(where, prompt, names[tuple(documents)])["text"], asked(where, prompt)["text"]) for where, names in both]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answers, cases))
    assert sum(bool(ours[0].strip()) for ours, _ in found) == QUESTIONS
    assert [pair for pair in found if pair[0] != pair[1]] == []
    assert sum(ours[0] != ours[1] for ours, _ in found) > QUESTIONS // 2, "adapters change answers"


def test_exact_states_give_the_embedded_backends_answers(stage):
    """With our plugin in vLLM: state adapters, several at one time, beside plain ones and none."""
    cases = everyday(QUESTIONS)
    plain = stage.vllm.upload(stage.adapter(*cases[0][1]))["model"]
    uploaded = {tuple(documents): stage.prag.encode_states(documents).to_bytes() for _, documents in cases}
    both = [(where, {key: where.upload(data)["model"] for key, data in uploaded.items()}) for where in stage.engines]
    beside = asked(stage.vllm, stage.prompt(cases[0][0], *cases[0][1]), plain)["text"]

    def answers(numbered):
        number, (question, documents) = numbered
        prompt = stage.prompt(question, *documents)
        if number % 5 == 0:
            assert asked(stage.vllm, stage.prompt(cases[0][0], *cases[0][1]), plain)["text"] == beside
        return [asked(where, prompt, names[tuple(documents)])["text"] for where, names in both]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answers, enumerate(cases)))
    assert [pair for pair in found if pair[0] != pair[1]] == []
    wrong = stage.vllm.complete(stage.prompt("Who?", "Anna."), both[0][1][tuple(cases[0][1])])
    assert wrong.status_code == 400 and wrong.json()["error"]["code"] == "mask_count"


def test_a_gateway_asks_it_as_it_asks_the_embedded_backend(stage, tmp_path):
    question, documents = everyday(1)[0]
    told = []
    for number, where in enumerate(stage.engines):
        arguments = ["--port", 0, "--engine", where.url, "--store", tmp_path / f"store-{number}"]
        with server("gateway", *arguments, DPRAG_ENGINE_API_KEY=KEY) as (_, url), Running(url, None, 600).http() as http:
            for place, text in enumerate(documents):
                assert http.post("/v1/documents", json={"name": f"{place}.txt", "text": text}).status_code == 200
            body = {"model": "distilledprag", "messages": [{"role": "user", "content": question}], "temperature": 0}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            told.append(answer.json())
    ours, theirs = told
    assert ours["choices"][0]["message"]["content"] == theirs["choices"][0]["message"]["content"] != ""
    assert ours["distilledprag"]["sent"]["adapter"] == theirs["distilledprag"]["sent"]["adapter"]


def test_two_tenants_whose_prompts_are_the_same_tokens_get_their_own_answers(stage):
    documents = ["Ingrid Lindovic lives in Dunmouth.", "Ingrid Lindovic lives in Ashhaven."]
    question = "In which city does Ingrid Lindovic live?"
    prompts = [stage.prompt(question, document) for document in documents]
    assert prompts[0] == prompts[1]
    models = [stage.vllm.upload(stage.adapter(text), key)["model"] for text, key in zip(documents, (KEY, OTHER_KEY), strict=True)]
    for _ in range(2):
        told = [asked(stage.vllm, prompts[0], model, key)["text"] for model, key in zip(models, (KEY, OTHER_KEY), strict=True)]
        assert ["Dunmouth" in told[0], "Ashhaven" in told[1]] == [True, True], told
    for model in (models[1], "../outside/x", f"base:../../{models[1]}", "base:"):
        assert stage.vllm.complete(prompts[0], model).status_code == 404


def test_probabilities_schemas_and_numbered_prompts_are_the_embedded_backends(stage):
    question, documents = everyday(1)[0]
    prompt, data = stage.prompt(question, *documents), stage.adapter(*documents)
    models = [where.upload(data)["model"] for where in stage.engines]
    told, expected = (asked(where, prompt, model, logprobs=3) for where, model in zip(stage.engines, models, strict=True))
    assert told["text"] == expected["text"] and told["logprobs"]["tokens"] == expected["logprobs"]["tokens"]
    assert told["logprobs"]["token_logprobs"] == pytest.approx(expected["logprobs"]["token_logprobs"], abs=1e-3)
    assert [set(top) for top in told["logprobs"]["top_logprobs"]] == [set(top) for top in expected["logprobs"]["top_logprobs"]]
    schema = {"type": "object", "properties": {"place": {"type": "string", "maxLength": 12}}, "required": ["place"]}
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    told, expected = (asked(where, prompt, model, **form)["text"] for where, model in zip(stage.engines, models, strict=True))
    assert told == expected and "place" in json.loads(told)
    numbered = stage.prag.peft_prompt(question, documents)
    assert asked(stage.vllm, numbered, models[0])["text"] == asked(stage.vllm, prompt, models[0])["text"]


def test_every_hostile_file_is_refused_for_its_reason_and_harms_nobody(stage):
    (module,) = stage.spec.shapes
    valid = small_adapter(stage.spec).to_bytes()
    question, documents = everyday(1)[0]
    wrong = []
    with victim(stage.vllm, stage.adapter(*documents), stage.prompt(question, *documents)), stage.vllm.http() as http:
        for name, (make, status, code) in hostile_files(*tensor_names(module)).items():
            response = http.post("/v1/adapters", content=make(valid))
            error = response.json().get("error", {"code": "accepted", "message": ""})
            if response.status_code != status or (code and error["code"] != code):
                wrong.append((name, response.status_code, error))
        states = stage.prag.encode_states(documents)
        for change, code in (({"layer": 5}, "keys"), ({"rows": states.rows.new_zeros(513, states.rows.shape[1])}, "shape")):
            refused = http.post("/v1/adapters", content=replace(states, **change).to_bytes())
            assert refused.status_code == 422 and refused.json()["error"]["code"] == code
        other = f"layers.0.mlp.{module.rpartition('.')[2]}"
        shapes = AdapterSpec({other: stage.spec.shapes[module]}, identity=stage.spec.identity)
        assert http.post("/v1/adapters", content=small_adapter(shapes).to_bytes()).json()["error"]["code"] == "keys"
    assert not wrong


def test_damaged_adapters_and_the_largest_values_that_are_accepted_harm_nobody(stage):
    valid = small_adapter(stage.spec).to_bytes()
    question, documents = everyday(1)[0]
    prompt = stage.prompt(question, *documents)
    counts = {"accepted": 0, "refused": 0}
    with victim(stage.vllm, stage.adapter(*documents), prompt), stage.vllm.http() as http:

        def attack(data):
            response = http.post("/v1/adapters", content=data)
            if response.status_code != 201:
                assert response.status_code in (409, 413, 422), response.text
                counts["refused"] += 1
                return
            counts["accepted"] += 1
            body = {"model": response.json()["model"], "prompt": prompt[-20:], "max_tokens": 2, "temperature": 0}
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert http.delete(f"/v1/adapters/{response.json()['id']}").status_code == 200

        @settings(max_examples=MUTATIONS, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(damage())
        def attacks(choices):
            attack(damaged(valid, *choices))

        attacks()
        assert counts["accepted"] > 3 and counts["refused"] > 20
        for rank, scale in ((1, 3.0), (512, 0.6)):  # almost as large as the gate allows
            before = counts["accepted"]
            attack(small_adapter(stage.spec, rank=rank, scale=scale).to_bytes())
            assert counts["accepted"] == before + 1


def test_an_adapter_that_is_deleted_during_its_answer_ends_nothing(stage):
    (folder,) = folders()
    question, documents = everyday(1)[0]
    uploaded = stage.vllm.upload(stage.adapter(*documents))
    body = {"model": uploaded["model"], "prompt": stage.prompt(question, *documents), "max_tokens": 300}
    body |= {"temperature": 1.5, "seed": 1, "stream": True, "logprobs": None}
    with stage.vllm.http() as http:
        expected = http.post("/v1/completions", json=body).text
        before = set(folder.iterdir())
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            assert http.delete(f"/v1/adapters/{uploaded['id']}").status_code == 200
            rest = list(lines)
        assert expected.count("data: ") == 1 + sum(line.startswith("data: ") for line in rest)
        until(lambda: len(set(folder.iterdir())) == len(before) - 1)
        assert http.post("/v1/completions", json=body).status_code == 404
        assert asked(stage.vllm, body["prompt"])["finish_reason"] in ("stop", "length")


def test_only_the_engine_can_reach_vllm(stage):
    (folder,) = folders()
    assert folder.stat().st_mode & 0o077 == 0
    mine = processes_of(group_of(folder))
    assert mine
    sockets = set()
    for process in mine:
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(handle))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    own = {f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}", "00000000000000000000000001000000"}
    assert set(listening) <= own, "besides loopback"


def test_vllm_killed_under_load_gives_503_and_is_started_again(stage):
    """Adapters need not be sent again."""
    (folder,) = folders()
    question, documents = everyday(1)[0]
    model, prompt = stage.vllm.upload(stage.adapter(*documents))["model"], stage.prompt(question, *documents)
    expected = asked(stage.vllm, prompt, model)["text"]
    seen, stopped = [], threading.Event()

    def keep_asking():
        while not stopped.is_set():
            seen.append(stage.vllm.complete(prompt, model, max_tokens=24))
            time.sleep(0.2)

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    killed = group_of(folder)
    until(lambda: len(seen) > 3, 60)
    for process in processes_of(killed):
        os.kill(process, signal.SIGKILL)
    until(lambda: any(response.status_code == 503 for response in seen), 60)
    with stage.vllm.http() as http:
        assert http.get("/health").status_code == 503
        until(lambda: http.get("/health").status_code == 200, 600)
    already = len(seen)
    until(lambda: len(seen) > already + 3, 120)
    stopped.set()
    for thread in threads:
        thread.join()
    refused = [response for response in seen if response.status_code != 200]
    assert refused and {response.status_code for response in refused} == {503}
    assert {response.json()["error"]["code"] for response in refused} == {"model_unavailable"}
    assert all("retry-after" in response.headers for response in refused)
    answers = {response.json()["choices"][0]["text"] for response in seen if response.status_code == 200}
    assert answers == {expected} and seen[-1].status_code == 200
    assert group_of(folder) != killed and not processes_of(killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_nothing_is_left_of_an_engine_that_ends(stage, tmp_path, number):
    before = folders()
    if number == signal.SIGTERM:
        with vllm_engine(tmp_path) as (process, url):
            check_that_nothing_is_left(process, url, number, before, stage)
    else:  # the one that all other tests used: this is the last
        check_that_nothing_is_left(stage.process, stage.vllm.url, number, set(), stage)


def check_that_nothing_is_left(process, url, number, before, stage):
    (folder,) = folders() - before
    group = group_of(folder)
    shared = [Path(name) for name in (folder / "shared").read_text().splitlines()]
    assert shared and all(file.exists() for file in shared)
    Running(url, None).upload(stage.adapter("Anna Tovberg lives in Oakport."))
    process.send_signal(number)
    until(lambda: not folder.exists() and not processes_of(group), 60)
    assert not any(file.exists() for file in shared)
    process.wait(60)
    assert process.poll() == (0 if number == signal.SIGTERM else -number)
