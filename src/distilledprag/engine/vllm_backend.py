"""Jobs served by a vLLM server that only this engine can reach (`dprag engine --backend vllm`).

    queue -> job -> its adapter loaded, or the one that changes nothing -> streamed completion -> tokens -> job

vLLM is given token ids, an adapter's random name and a salt that is the tenant's own, so that its prefix cache never serves one
tenant what it kept for another. When vLLM ends, the jobs under way and those that come get a 503 until it has been started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distilledprag.engine.jobs import FairQueue, Job
from distilledprag.engine.vllm_adapters import Held, LoadedAdapters, no_change, states_as_lora, write_adapter
from distilledprag.engine.vllm_server import VllmClient, VllmError, VllmGoneError, VllmProcess
from distilledprag.errors import ConfigError
from distilledprag.http.errors import InternalError, RequestError, StoppingError
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.validation import AdapterSpec
from distilledprag.lora.weights import LoraWeights

_logger = logging.getLogger(__name__)
_NAP = 0.2  # seconds between two looks at flags, at jobs that were dropped, and at vLLM's process
_HEALTH = 3.0  # seconds between two questions whether vLLM answers
_LONGEST_PAUSE = 60.0  # seconds between two attempts to start it
_NEVER = -100.0  # vLLM's bias for a token that is never written
# JSON as the embedded backend writes it (engine/tokenization.py); llguidance reads this in a schema.
_JSON_FORM = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


class VllmBackend:
    """Ready to serve when it is made, else ConfigError.

    process: vLLM, which answers; None: somebody else has started it, and starts it again. folder: for adapters. spec: of the
    served base. stop_ids: tokens that end an answer. suppressed: tokens that are never written. most: requests at one time;
    most_adapters: in use at one time, and held by vLLM. states: the module (and its shape) on which our plugin takes state
    adapters; None where vLLM does not have it.
    """

    numbers_masks = True

    def __init__(
        self,
        client: VllmClient,
        process: VllmProcess | None,
        folder: Path,
        spec: AdapterSpec,
        stop_ids: frozenset[int],
        suppressed: Iterable[int],
        *,
        most: int,
        most_adapters: int,
        states: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._client, self._process, self._folder, self._most = client, process, folder, most
        self._states = states
        self._stop_ids = sorted(stop_ids)
        self._bias = {str(id): _NEVER for id in set(suppressed) - stop_ids}
        self._salt_key = secrets.token_bytes(32)
        self._none = write_adapter(folder, no_change(spec))
        self._adapters = LoadedAdapters(client.load, self._wipe, most_adapters)
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._freed = asyncio.Event()
        self._up, self._doubted, self._aborted = False, False, False
        self._stale: list[str] = []  # names that vLLM may still have after it was lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self.context_length = int(client.model().get("max_model_len") or 0)
        try:
            asyncio.run(self._first())
        except (VllmError, VllmGoneError) as error:
            raise ConfigError(
                f"vLLM does not load adapters at runtime ({error}); start it with --enable-lora and the variable "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            ) from error

    @property
    def takes_states(self) -> bool:
        return self._states is not None

    @property
    def ready(self) -> bool:
        """Whether vLLM answers."""
        return self._up

    def prepare(self, weights: LoraWeights | StateAdapter) -> Held:
        """Written to memory as vLLM reads it, under a name that is made here; loaded when a job needs it."""
        if isinstance(weights, StateAdapter):
            assert self._states is not None
            weights = states_as_lora(weights, self._states)
        return write_adapter(self._folder, weights)

    def release(self, adapter: Held) -> None:
        """Its running jobs are finished, then it is unloaded, then its files are deleted."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._adapters.release, adapter)
                return
        shutil.rmtree(adapter.folder, ignore_errors=True)

    def abort(self) -> None:
        self._aborted = True

    def serve(self, queue: FairQueue) -> None:
        asyncio.run(self._serve(queue))

    async def _first(self) -> None:
        await self._connect()
        await self._client.close()  # it belongs to this loop

    async def _serve(self, queue: FairQueue) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
        watching = asyncio.create_task(self._watch())
        try:
            while await self._take(queue):
                self._drop()
        finally:
            watching.cancel()
            with self._lock:
                self._loop = None
            await self._adapters.settled()
            await self._client.close()
            self._up = False

    async def _take(self, queue: FairQueue) -> bool:
        """Begin the jobs that can begin, then wait for more; False when the queue is closed and empty."""
        if self._aborted or not self._up:
            for waiting in queue.abandon():
                waiting.end(error=self._refusal())
        self._freed.clear()
        while (job := queue.take(self._fits)) is not None:
            if job.adapter is not None:
                self._adapters.reserve(job.adapter)
            task = asyncio.create_task(self._answer(job))
            self._tasks[task] = job
            task.add_done_callback(lambda task: self._ended(task, queue))
        if queue.waiting:  # one that does not fit yet
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _NAP)
            return True
        if await asyncio.to_thread(queue.wait, _NAP):
            return True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_NAP)
            return True
        return False

    def _fits(self, job: Job) -> bool:
        return len(self._tasks) < self._most and (job.adapter is None or self._adapters.fits(job.adapter))

    def _ended(self, task: asyncio.Task[None], queue: FairQueue) -> None:
        job = self._tasks.pop(task)
        if job.adapter is not None:
            self._adapters.free(job.adapter)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("an answer failed", exc_info=error)
            job.end(error=InternalError("the engine failed while it wrote this answer; ask again"))
        job.end()  # where nothing has said so
        queue.ended(job)
        self._freed.set()

    def _drop(self) -> None:
        """End what nobody waits for any more, has no time left, or can no longer be answered."""
        for task, job in list(self._tasks.items()):
            if self._aborted or not self._up:
                job.end(error=self._refusal())
                task.cancel()
            elif job.dropped():
                task.cancel()

    def _refusal(self) -> RequestError:
        if self._aborted:
            return StoppingError("the engine stopped before the answer was finished; ask again", retry_after=1)
        message = "the model server behind this engine has ended and is being started again; ask again in a moment"
        return StoppingError(message, code="model_unavailable", retry_after=10)

    # --- one answer

    async def _answer(self, job: Job) -> None:
        try:
            name = self._none.name if job.adapter is None else await self._adapters.name_of(job.adapter)
            assert name is not None
            await self._write(job, name)
        except VllmGoneError:
            self._doubted = True
            job.end(error=self._refusal())
        except VllmError as error:
            if error.status < 500 and error.status != 404:
                job.end(error=RequestError("the model server cannot serve this request", code="model_refused", status=400))
                return
            if error.status == 404 and self._up:  # it is another one, which has not been told of our adapters
                self._lost()
            self._doubted = True
            if error.status == 404 or not await self._client.answers():
                job.end(error=self._refusal())
            else:
                job.end(error=InternalError("the model server failed while it wrote this answer; ask again"))

    async def _write(self, job: Job, name: str) -> None:
        async with contextlib.aclosing(self._client.completions(self._request(job, name))) as choices:
            async for choice in choices:
                self._read(job, choice)
                if job.dropped():
                    return
        if not job.dropped():
            raise VllmGoneError

    def _request(self, job: Job, name: str) -> dict[str, Any]:
        sampling = job.sampling
        fields: dict[str, Any] = {
            "model": name,
            "prompt": job.prompt,
            "max_tokens": job.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop_token_ids": self._stop_ids,
            "logit_bias": self._bias,
            "cache_salt": hmac.digest(self._salt_key, job.tenant.encode(), hashlib.sha256).hex(),
            "stream": True,
            "return_token_ids": True,
        }
        if job.alternatives is not None:
            fields |= {"logprobs": job.alternatives, "return_tokens_as_token_ids": True}
        if job.grammar is not None:
            fields["structured_outputs"] = {"json": job.grammar.schema | _JSON_FORM}
        return fields

    def _read(self, job: Job, choice: dict[str, Any]) -> None:
        told = choice.get("logprobs") or {}
        for place, id in enumerate(choice.get("token_ids") or ()):
            if id in self._stop_ids:
                job.end("stop")
                return
            if job.alternatives is None:
                job.token(id)
            else:
                job.token(id, *_logprobs(told, place, job.alternatives))
        reason = choice.get("finish_reason")
        if reason in ("stop", "length"):
            job.end(reason)
        elif reason is not None:
            raise VllmError(500)

    # --- vLLM's life

    async def _connect(self) -> None:
        """It answers: nothing of ours is loaded but the adapter that changes nothing."""
        for name in self._stale:
            await self._wipe(name)
        self._stale = []
        self._none.name = secrets.token_hex(16)
        await self._client.load(self._none.name, self._none.folder)
        self._up, self._doubted = True, False

    async def _watch(self) -> None:
        pause, naps = 1.0, 0
        while True:
            await asyncio.sleep(_NAP)
            naps += 1
            try:
                if self._up:
                    ended = self._process is not None and not self._process.alive
                    asked = self._doubted or (self._process is None and naps * _NAP >= _HEALTH)
                    if ended or (asked and not await self._client.answers()):
                        self._lost()
                    elif asked:
                        naps, self._doubted = 0, False
                elif self._process is not None and not self._process.alive:
                    _logger.error("vLLM is started again in %d seconds", pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    await asyncio.to_thread(self._process.start)
                elif naps * _NAP >= 1 and await self._client.answers():
                    await self._connect()
                    if self._process is not None:
                        self._process.is_ready()
                    pause, naps = 1.0, 0
                    _logger.warning("vLLM answers again")
            except Exception as error:  # it is tried again
                _logger.error("vLLM cannot be watched", exc_info=error)

    def _lost(self) -> None:
        self._up = False
        if self._process is None:  # it may not have ended
            self._stale = [*self._adapters.names, *([self._none.name] if self._none.name else [])]
        self._adapters.lost()
        _logger.error("vLLM has ended or does not answer; requests get 503 until it does")

    async def _wipe(self, name: str) -> None:
        """Unload an adapter. vLLM forgets its name only, not its numbers: these are overwritten first."""
        with contextlib.suppress(VllmError, VllmGoneError):
            await self._client.load(name, self._none.folder, in_place=True)
        with contextlib.suppress(VllmError, VllmGoneError):
            await self._client.unload(name)


def _logprobs(told: dict[str, Any], place: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log probability of a token, and the `count` likeliest at its place."""
    top = {int(name.removeprefix("token_id:")): float(value) for name, value in told["top_logprobs"][place].items()}
    likeliest = sorted(top.items(), key=lambda item: (-item[1], item[0]))[:count]
    return float(told["token_logprobs"][place]), tuple(likeliest)
