"""Accepted adapters as vLLM takes them: PEFT folders in memory, loaded under random names, and which of them it holds now.

    prepare   checked adapter -> folder NAME/ in a private folder of /dev/shm   (no name of the client's is used anywhere)
    name_of   load it if vLLM does not hold it; the least recently used idle one makes room
    release   no request left -> unload -> delete the folder, in this order: vLLM dies of a folder that is missing when asked for

A name is made for each load and never used again: vLLM's prefix cache knows an adapter by its name, and masked prompts of two
tenants can be the same tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distilledprag.base.architecture import split_module_key
from distilledprag.engine.vllm_plugin import MARK
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.peft_format import CONFIG_FILE, WEIGHTS_FILE
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.validation import AdapterSpec
from distilledprag.lora.weights import LoraPair, LoraWeights

# Files for the guard: vLLM's process group, and the shared memory of its processes, which nobody deletes when they are killed.
GROUP, SHARED = "group", "shared"
_MEMORY = Path("/dev/shm")
# Runs until this process is gone, however it ended: then vLLM ends, and the folder is deleted.
_GUARD = """cat >/dev/null
if [ -s "$1/group" ]; then kill -9 "-$(cat "$1/group")" 2>/dev/null; fi
if [ -s "$1/shared" ]; then while read -r file; do rm -f -- "$file"; done <"$1/shared"; fi
rm -rf -- "$1"
"""


class PrivateFolder:
    """A folder in memory (where there is none: a temporary one) that only this user can enter.

    A process of its own deletes it, and ends vLLM, when this process is gone, also after a kill -9.
    """

    def __init__(self) -> None:
        root = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
        self.path = Path(tempfile.mkdtemp(prefix="dprag-vllm-", dir=root))
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Delete it; vLLM, if it still runs, ends first."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        shutil.rmtree(self.path, ignore_errors=True)  # where the guard itself was killed


@dataclass(eq=False)
class Held:
    """An adapter that the engine holds. nbytes: of its files. name: at vLLM; None while that does not hold it. running: requests
    that use it now, or wait for it to be loaded."""

    folder: Path
    nbytes: int
    name: str | None = None
    running: int = 0
    released: bool = False


def write_adapter(root: Path, weights: LoraWeights) -> Held:
    """Write a checked adapter below `root`; its configuration is made here."""
    folder = root / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    try:
        data = weights.to_bytes()
        (folder / WEIGHTS_FILE).write_bytes(data)
        (folder / CONFIG_FILE).write_text(json.dumps(_configuration(weights)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Held(folder, len(data))


def states_as_lora(states: StateAdapter, shapes: Mapping[str, tuple[int, int]]) -> LoraWeights:
    """The LoRA as which our plugin for vLLM takes a state adapter (vllm_plugin.py). shapes: of the module that it changes, by
    its key. Raises AdapterError for states of another layer."""
    ((key, (width, _)),) = shapes.items()
    layer = split_module_key(key)[0]
    if states.layer != layer:
        raise AdapterError(
            Rejection.KEYS,
            f"This engine writes states after layer {layer}, not {states.layer}. Make the adapter with the base's own layer.",
        )
    a = torch.zeros(states.count, width)
    a[:, 0] = MARK
    return LoraWeights({key: LoraPair(a, states.rows.float().T.contiguous())}, float(states.count), states.base, "states")


def no_change(spec: AdapterSpec) -> LoraWeights:
    """An adapter that changes nothing, for requests without one: beside requests with adapters, vLLM answered those that named
    the base itself wrongly."""
    assert spec.identity is not None
    key, (width, hidden) = next(iter(spec.shapes.items()))
    return LoraWeights({key: LoraPair(torch.zeros(1, width), torch.zeros(hidden, 1))}, 1.0, spec.identity, "none")


def _configuration(weights: LoraWeights) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": weights.rank,
        "lora_alpha": weights.alpha,
        "target_modules": sorted({split_module_key(key)[1] for key in weights.modules}),
        "bias": "none",
        "inference_mode": True,
    }


class LoadedAdapters:
    """Which adapters vLLM holds, at most `most`. load (name, folder), unload (name): vLLM's own. Within one event loop."""

    def __init__(self, load: Callable[[str, Path], Awaitable[None]], unload: Callable[[str], Awaitable[None]], most: int) -> None:
        self._load, self._drop, self._most = load, unload, most
        self._loaded: OrderedDict[Held, None] = OrderedDict()  # the least recently used comes first
        self._busy: set[Held] = set()
        self._changing = asyncio.Lock()  # one load or unload at a time
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """Of the adapters that vLLM holds, the least recently used first."""
        return [held.name for held in self._loaded if held.name]

    def fits(self, held: Held) -> bool:
        """Whether a request may use it now: no more than `most` can be in use at one time."""
        return held in self._busy or len(self._busy) < self._most

    def reserve(self, held: Held) -> None:
        """A request uses it from now on, until `free`. Call it only where it `fits`."""
        held.running += 1
        self._busy.add(held)

    def free(self, held: Held) -> None:
        """That request has ended."""
        held.running -= 1
        if not held.running:
            self._busy.discard(held)
            if held.released:
                self._begin(self._retire(held))

    async def name_of(self, held: Held) -> str:
        """Its name at vLLM, which loads it if it must. Only while it is reserved. Raises what `load` does."""
        # A load that was begun is finished, also when the client leaves: else vLLM would hold what is not known here.
        await asyncio.shield(self._begin(self._ensure(held)))
        assert held.name is not None
        return held.name

    def release(self, held: Held) -> None:
        """No further request will name it: it is unloaded and deleted once those that use it have ended."""
        held.released = True
        if not held.running:
            self._begin(self._retire(held))

    def lost(self) -> None:
        """vLLM has ended, and holds nothing any more."""
        for held in self._loaded:
            held.name = None
        self._loaded.clear()

    async def settled(self) -> None:
        """Wait for loads and deletions under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waits for it is told; nobody need wait

    async def _ensure(self, held: Held) -> None:
        async with self._changing:
            if held.name is None and held.running and await self._room():
                name = secrets.token_hex(16)
                await self._load(name, held.folder)
                held.name = name
            if held.name is not None:
                self._loaded[held] = None
                self._loaded.move_to_end(held)

    async def _room(self) -> bool:
        while len(self._loaded) >= self._most:
            idle = next((held for held in self._loaded if not held.running), None)
            if idle is None:  # only when who asked has left meanwhile
                return False
            await self._unload(idle)
        return True

    async def _retire(self, held: Held) -> None:
        try:
            async with self._changing:
                await self._unload(held)
        finally:
            await asyncio.to_thread(shutil.rmtree, held.folder, ignore_errors=True)

    async def _unload(self, held: Held) -> None:
        self._loaded.pop(held, None)
        name, held.name = held.name, None
        if name is not None:
            await self._drop(name)
