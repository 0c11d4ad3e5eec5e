"""The engine before a vLLM: names, residency, draining, what is asked of it, and its end. vLLM itself is a double here; the real
one is in test_vllm_real.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from engine_cases import KEY, OTHER_KEY, Running
from hostile import small_adapter
from served import served
from vllm_double import VllmDouble
from waiting import until

from distilledprag.base.architecture import module_key, module_shapes
from distilledprag.base.llm import describe_base, load_base
from distilledprag.base.prepared import prepared_record
from distilledprag.cli.engine import EngineOptions
from distilledprag.cli.main import engine as engine_command
from distilledprag.engine.application import Metrics, build_application
from distilledprag.engine.service import Engine, Settings
from distilledprag.engine.vllm_adapters import Held, LoadedAdapters, PrivateFolder
from distilledprag.engine.vllm_backend import VllmBackend
from distilledprag.engine.vllm_server import VllmClient, VllmOptions
from distilledprag.errors import ConfigError
from distilledprag.http.middleware import ApiKeys
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.validation import AdapterSpec
from distilledprag.lora.weights import STATES, LoraPair, LoraWeights

MASKS = 128


class Recorder:
    """`LoadedAdapters` over a vLLM that notes what it is told."""

    def __init__(self, folder, most):
        self.folder, self.told, self.block = folder, [], asyncio.Event()
        self.block.set()
        self.adapters = LoadedAdapters(self.load, self.unload, most)

    def held(self, number):
        folder = self.folder / str(number)
        folder.mkdir()
        return Held(folder, 10)

    async def load(self, name, folder):
        await self.block.wait()
        self.told.append(("load", folder.name, name))

    async def unload(self, name):
        folder = next(folder for what, folder, known in self.told if what == "load" and known == name)
        assert (self.folder / folder).exists(), "unloaded before its files are deleted"
        self.told.append(("unload", folder, name))

    @property
    def actions(self):
        return [(what, folder) for what, folder, _ in self.told]

    @contextlib.asynccontextmanager
    async def using(self, held):
        assert self.adapters.fits(held)
        self.adapters.reserve(held)
        try:
            yield await self.adapters.name_of(held)
        finally:
            self.adapters.free(held)

    async def use(self, held):
        async with self.using(held):
            pass


def test_the_least_recently_used_idle_adapter_makes_room_and_no_name_is_used_twice(tmp_path):
    async def check():
        recorder = Recorder(tmp_path, most=2)
        first, second, third = map(recorder.held, (1, 2, 3))
        await recorder.use(first)
        await recorder.use(second)
        await recorder.use(first)
        await recorder.use(third)
        assert recorder.actions[2:] == [("unload", "2"), ("load", "3")]
        async with recorder.using(first):
            await recorder.use(second)  # the first is older than the third, but in use
            assert recorder.actions[4:] == [("unload", "3"), ("load", "2")]
            async with recorder.using(second):
                assert [recorder.adapters.fits(held) for held in (first, second, third)] == [True, True, False]
        names = [name for what, _, name in recorder.told if what == "load"]
        assert len(set(names)) == len(names) == 4 and all(len(name) == 32 for name in names)
        recorder.adapters.lost()
        await recorder.use(first)
        assert recorder.actions[-1] == ("load", "1") and recorder.told[-1][2] not in names

    asyncio.run(check())


def test_a_released_adapter_is_drained_then_unloaded_then_deleted(tmp_path):
    async def check():
        recorder = Recorder(tmp_path, most=2)
        held, other = recorder.held(1), recorder.held(2)
        async with recorder.using(held):
            async with recorder.using(held):
                recorder.adapters.release(held)
            await asyncio.sleep(0.02)
            assert held.folder.exists() and recorder.actions == [("load", "1")]
        await recorder.adapters.settled()
        assert not held.folder.exists() and recorder.actions == [("load", "1"), ("unload", "1")]
        recorder.adapters.release(other)
        await recorder.adapters.settled()
        assert not other.folder.exists() and len(recorder.told) == 2  # it was never loaded

    asyncio.run(check())


def test_a_load_whose_client_leaves_is_finished_and_remembered(tmp_path):
    async def check():
        recorder = Recorder(tmp_path, most=1)
        held = recorder.held(1)
        recorder.block.clear()
        leaving = asyncio.create_task(recorder.use(held))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        recorder.block.set()
        await recorder.adapters.settled()
        assert recorder.adapters.names == [recorder.told[0][2]]
        await recorder.use(held)
        assert recorder.actions == [("load", "1")]

    asyncio.run(check())


def hold_a_private_folder(pipe):
    with PrivateFolder() as folder:
        (folder.path / "adapter").mkdir()
        pipe.send(folder.path)
        time.sleep(60)


def test_a_private_folder_is_gone_when_its_process_is_killed_and_at_the_end():
    forks = multiprocessing.get_context("fork")
    reader, writer = forks.Pipe(duplex=False)
    process = forks.Process(target=hold_a_private_folder, args=(writer,))
    process.start()
    path = reader.recv()
    assert (path / "adapter").is_dir() and path.stat().st_mode & 0o077 == 0
    process.kill()
    process.join()
    until(lambda: not path.exists())
    with PrivateFolder() as folder:
        assert folder.path.is_dir()
    assert not folder.path.exists()


def test_a_vllm_that_others_could_reach_and_options_that_cannot_be_are_refused(dprag):
    with pytest.raises(ConfigError, match="loopback"):
        VllmClient(url="http://192.0.2.7:8000")
    options = {"python": "python", "model": Path("m"), "modules": ("layers.0.mlp.down_proj",), "max_num_seqs": 4}
    with pytest.raises(ConfigError, match="--max-cpu-loras"):
        VllmOptions(max_loras=4, max_cpu_loras=3, max_lora_rank=8, **options)
    with pytest.raises(ConfigError, match="lower --max-lora-rank"):
        VllmOptions(max_loras=4, max_cpu_loras=4, max_lora_rank=513, **options)
    with pytest.raises(ConfigError, match="may not have --host"):
        VllmOptions(max_loras=4, max_cpu_loras=4, max_lora_rank=8, arguments=("--host=0.0.0.0",), **options)
    command = VllmOptions(max_loras=4, max_cpu_loras=4, max_lora_rank=33, **options).command(Path("s"), Path("m"))
    assert command[command.index("--max-lora-rank") + 1] == "64" and "--host" not in command and "--port" not in command
    assert dprag("engine", "--backend", "other")[0] == 1
    assert EngineOptions.__dataclass_fields__.keys() >= engine_command.__annotations__.keys() - {"return"}


def test_a_vllm_that_does_not_start_or_answer_is_one_message(dprag, tiny_prepared_folder, monkeypatch):
    monkeypatch.delenv("DPRAG_VLLM_PYTHON", raising=False)
    for more, said in (
        ([], "name its Python with --vllm-python"),
        (["--vllm-python", "no/such/python"], "cannot be started with no/such/python"),
        (["--vllm-python", sys.executable], "No module named"),
        (["--vllm-url", "http://192.0.2.7:8000"], "loopback"),
        (["--vllm-url", "http://127.0.0.1:9"], "does not answer as vLLM does"),
        (["--vllm-python", "python", "--vllm-args", "--host 0.0.0.0"], "may not have --host"),
    ):
        code, _, error = dprag("engine", "--backend", "vllm", "--port", 0, "--model", tiny_prepared_folder, *more)
        assert code == 1 and said in error and "Traceback (most recent" not in error, error


@pytest.fixture(scope="module")
def described(tiny_prepared_folder):
    return describe_base(tiny_prepared_folder)


def test_a_base_without_its_weights_is_described_as_with_them(tiny_prepared_folder, described):
    whole = load_base(tiny_prepared_folder)
    assert (described.identity, described.mask_token_id, described.id) == (whole.identity, whole.mask_token_id, whole.id)
    assert described.context_length == whole.context_length and described.device.type == "meta"
    assert described.model.generation_config.suppress_tokens == whole.model.generation_config.suppress_tokens


@pytest.fixture
def double():
    return VllmDouble()


@pytest.fixture
def running(double, described, tiny_prepared_folder):
    record = prepared_record(tiny_prepared_folder)
    module = module_key(record.plain_layer, "down_proj")
    spec = AdapterSpec({module: module_shapes(described.model.config)[module]}, identity=described.identity, maximum_rank=MASKS)
    with served(double.app) as url, PrivateFolder() as private:
        backend = VllmBackend(
            VllmClient(url=url), None, private.path, spec, frozenset({0}), [described.mask_token_id], most=4, most_adapters=2
        )
        bounds = {"context_length": backend.context_length, "numbered": record.numbered, "spec": spec}
        engine = Engine(described, Settings(served_model_name="base"), backend=backend, **bounds)
        app = build_application(engine, ApiKeys([KEY, OTHER_KEY]), Metrics(), ApiKeys())
        with served(app) as address:
            made = Running(address, engine)
            made.folder = private.path
            yield made


def plain(running, rank, generator=STATES):
    adapter = small_adapter(running.engine.spec, rank=rank)
    return LoraWeights(adapter.modules, adapter.alpha, adapter.base, generator).to_bytes()


def ids_of(described, text="Anna lives in Oakport and works there."):
    return described.tokenizer.encode(text, add_special_tokens=False)


def test_requests_name_their_adapter_or_the_one_that_changes_nothing(running, double, described):
    ids = ids_of(described)
    text = described.tokenizer.decode
    assert running.complete(ids).json()["choices"][0]["text"] == text(ids[::-1][:1])
    uploaded = running.upload(plain(running, 3))
    answer = running.complete(ids, uploaded["model"]).json()
    assert answer["choices"][0]["text"] == text(ids[::-1][:3]) and answer["usage"]["completion_tokens"] == 3
    none, own = (asked["model"] for asked in double.asked)
    assert none != own and uploaded["id"] not in own and {none, own} == set(double.loaded)
    salts = [asked["cache_salt"] for asked in double.asked]
    running.complete(ids, key=OTHER_KEY)
    assert salts[0] == salts[1] != double.asked[-1]["cache_salt"] and min(map(len, salts)) == 64
    assert double.asked[0]["logit_bias"] == {str(described.mask_token_id): -100}
    assert all(asked["stop_token_ids"] == [0] for asked in double.asked)
    folder = double.loaded[own]
    with running.http() as http:
        assert http.delete(f"/v1/adapters/{uploaded['id']}").status_code == 200
    until(lambda: not folder.exists())
    assert set(double.loaded) == {none} and double.numbers[own] == double.loaded[none], "its numbers were overwritten"


def test_masks_are_numbered_for_adapters_that_write_states_only(running, double, described, tiny_prepared_folder):
    first = prepared_record(tiny_prepared_folder).first_numbered
    mask = described.mask_token_id
    prompt = [5, mask, mask, 9, mask]
    model = running.upload(plain(running, 3))["model"]
    running.complete(prompt, model)
    assert double.asked[-1]["prompt"] == [5, first, first + 1, 9, first + 2]
    running.complete(double.asked[-1]["prompt"], model)
    assert double.asked[-1]["prompt"] == [5, first, first + 1, 9, first + 2]
    running.complete(prompt, running.upload(plain(running, 3, "other"))["model"])
    assert double.asked[-1]["prompt"] == prompt
    refused = running.complete([mask] * (MASKS + 1), model)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "mask_count"


def test_what_the_engine_says_of_itself_and_refuses(running, described):
    with running.http() as http:
        (entry,) = http.get("/v1/models").json()["data"]
        assert entry["adapter_forms"] == ["lora"] and entry["max_model_len"] == 300 and entry["max_rows"] == MASKS
        states = StateAdapter(torch.zeros(2, described.model.config.hidden_size), 0, described.identity).to_bytes()
        refused = http.post("/v1/adapters", content=states)
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "form"
        large = plain(running, MASKS + 1)
        assert http.post("/v1/adapters", content=large).json()["error"]["code"] == "rank"
        width, hidden = next(iter(running.engine.spec.shapes.values()))
        pair = {"layers.2.mlp.down_proj": LoraPair(torch.ones(1, width), torch.ones(hidden, 1))}
        elsewhere = LoraWeights(pair, 1.0, described.identity, STATES).to_bytes()
        assert http.post("/v1/adapters", content=elsewhere).json()["error"]["code"] == "keys"
    assert len(list(running.folder.iterdir())) == 1  # the adapter that changes nothing


def test_probabilities_and_schemas_are_asked_for_and_told(running, double, described):
    ids = ids_of(described)
    told = running.complete(ids, logprobs=2).json()["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [-0.5] and list(told["top_logprobs"][0].values()) == [-0.5, -1.0]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    running.complete(ids, response_format=form)
    assert json.dumps(double.asked[-1]["structured_outputs"]["json"]).startswith(json.dumps(schema)[:-1])


def test_a_client_that_leaves_ends_its_request_at_vllm(running, double, described):
    double.held.clear()
    with running.http() as http, contextlib.suppress(Exception):
        http.post("/v1/completions", json={"model": "base", "prompt": ids_of(described)}, timeout=0.3)
    until(lambda: double.left == 1)
    until(lambda: running.engine.queue.running == 0)


def test_a_vllm_that_ended_means_503_until_it_answers_again(running, double, described):
    """It has lost the adapters, which are loaded again."""
    ids = ids_of(described)
    model = running.upload(plain(running, 2))["model"]
    expected = running.complete(ids, model).json()["choices"]
    names = list(double.names)
    double.down = True
    refused = running.complete(ids, model)
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "model_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    with running.http() as http:
        until(lambda: http.get("/health").status_code == 503)
        double.loaded.clear()
        double.down = False
        until(lambda: http.get("/health").status_code == 200)
    assert running.complete(ids, model).json()["choices"] == expected
    assert len(double.names) == 4 and not set(double.names[2:]) & set(names)
    double.loaded.clear()  # another one, started before anybody noticed
    assert running.complete(ids, model).status_code == 503
    until(lambda: running.engine.ready)
    assert running.complete(ids, model).json()["choices"] == expected


def test_more_adapters_than_vllm_holds_are_all_answered_at_once(running, double, described):
    ids = ids_of(described)
    models = [running.upload(plain(running, rank))["model"] for rank in (1, 2, 3, 4)]
    answers = {}

    def ask(rank, model):
        answers.setdefault(rank, []).append(running.complete(ids, model).json()["usage"]["completion_tokens"])

    threads = [threading.Thread(target=ask, args=case) for case in enumerate(models * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [number % 4 + 1] for number in range(12)}
    assert len(double.loaded) <= 3


def test_the_engines_end_ends_answers_under_way(running, double, described):
    double.held.clear()
    responses = []
    asking = threading.Thread(target=lambda: responses.append(running.complete(ids_of(described))))
    asking.start()
    until(lambda: running.engine.queue.running == 1)
    running.engine.stop()
    asking.join()
    assert responses[0].status_code == 503 and not running.engine.ready
