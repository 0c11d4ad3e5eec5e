"""The seam for other backends: one that is not ours serves requests, adapters and the engine's end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest
from hostile import small_adapter

from distilledprag.engine.application import build_application
from distilledprag.engine.service import Engine, Settings
from distilledprag.http.errors import StoppingError


@dataclass(eq=False)
class Kept:
    rank: int
    nbytes: int


class CountingBackend:
    """Answers with the prompt's tokens, as many as the adapter's rank (the bare base: one); holds back prompts of one token."""

    takes_states, numbers_masks, ready = True, False, True

    def __init__(self):
        self.prepared, self.released, self._aborted = [], [], threading.Event()

    def prepare(self, weights):
        self.prepared.append(Kept(weights.rank, 1000 * weights.rank))
        return self.prepared[-1]

    def release(self, adapter):
        self.released.append(adapter)

    def abort(self):
        self._aborted.set()

    def serve(self, queue):
        stopped = StoppingError("stopped", retry_after=1)
        while queue.wait(0.05):
            while (job := queue.take(lambda job: True)) is not None:
                while len(job.prompt) == 1 and not (job.dropped() or self._aborted.wait(0.01)):
                    pass
                if not job.dropped() and not self._aborted.is_set():
                    for id in job.prompt[: job.adapter.rank if job.adapter else 1]:
                        job.token(id)
                job.end("stop", stopped if self._aborted.is_set() else None)
                queue.ended(job)
            if self._aborted.is_set():
                for job in queue.abandon():
                    job.end(error=stopped)


@pytest.fixture
def backend():
    return CountingBackend()


@pytest.fixture
def running(start_engine, backend, engine_base):
    def build(_, *rest):
        start_engine.engine = Engine(engine_base, Settings(), backend=backend)
        return build_application(start_engine.engine, *rest)

    made = start_engine(build=build)
    made.engine = start_engine.engine
    return made


def test_another_backend_serves_requests_adapters_and_the_end(running, backend, engine_base):
    ids = engine_base.tokenizer.encode("Anna lives in Oakport and works there.", add_special_tokens=False)
    text = engine_base.tokenizer.decode
    assert running.complete(ids).json()["choices"][0]["text"] == text(ids[:1])
    uploaded = running.upload(small_adapter(running.engine.spec, rank=3).to_bytes())
    assert uploaded["bytes"] == 3000 and running.engine.adapters.nbytes == 3000
    answer = running.complete(ids, uploaded["model"]).json()
    assert answer["choices"][0]["text"] == text(ids[:3]) and answer["usage"]["completion_tokens"] == 3
    with running.http() as http:
        assert http.delete(f"/v1/adapters/{uploaded['id']}").status_code == 200
    assert backend.released == backend.prepared != []


def test_stopping_aborts_another_backends_jobs(running):
    responses = []
    asking = [threading.Thread(target=lambda: responses.append(running.complete([300]))) for _ in range(3)]
    for thread in asking:
        thread.start()
    while running.engine.queue.running + running.engine.queue.waiting < 3:
        time.sleep(0.01)
    running.engine.stop()
    for thread in asking:
        thread.join()
    assert [response.status_code for response in responses] == [503] * 3
    assert not running.engine.ready and running.engine.queue.running == 0
