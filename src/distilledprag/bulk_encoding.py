"""Many passages to states, on several processes or machines by Ray Data: `dprag encode --ray`.

    passages --batches--> workers: those that are not encoded yet -> a shard and its list --> out/shards
    all lists -> out/manifest.json

    out/shards/NAME.safetensors   a state adapter of all rows of some passages (`lora.states`: int8, one scale a row)
    out/shards/NAME.json          which passages these are, by hash, and how many rows each has; written last
    out/about.json                base and layer; written first
    out/manifest.json             base, layer and all shards; written when all is encoded

A passage's key is the hash of its text, the base and the layer, and a shard's name that of its keys, so whatever is done twice
writes the same. Ray starts a worker that was killed again; a run that was killed is started again by hand, and encodes what is in
no list. `out` is a folder or any URL that fsspec knows. The states can be read (docs/threat-model.md): keep them as the documents
are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.states import StateAdapter
from distilledprag.pipeline import DistilledPRAG

FORMAT = 1
MANIFEST = "manifest.json"
_READING = 2  # tasks that may read Parquet beside the workers; without room for one the run would stand still
_STORE_MEMORY = 256 * 2**20  # bytes of Ray's object store on one machine


@dataclass(frozen=True)
class Shard:
    """rows: of each passage; sha256: of the .safetensors file."""

    name: str
    keys: list[str]
    rows: list[int]
    bytes: int
    sha256: str


class Folder:
    """A folder on any file system that fsspec knows. Raises ConfigError for a URL whose file system is not installed."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url if "://" in url else str(Path(url).expanduser().resolve())
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url} cannot be used ({error}); install fsspec's file system for it") from error
        self._is_local = "file" in (self._files.protocol if isinstance(self._files.protocol, tuple) else [self._files.protocol])

    def write(self, name: str, data: bytes) -> None:
        """The file whole or not at all: object stores do so by themselves, here it is renamed."""
        place = f"{self._root}/{name}"
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self._is_local:
            temporary = f"{place}.{secrets.token_hex(6)}.part"
            self._files.pipe_file(temporary, data)
            os.replace(temporary, place)
        else:
            self._files.pipe_file(place, data)

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}")
            return data
        except FileNotFoundError:
            return None

    def shards(self) -> list[Shard]:
        """All that are whole. Raises CheckpointError for a list that is none."""
        self._files.invalidate_cache()
        found = []
        for path in sorted(self._files.glob(f"{self._root}/shards/*.json")):
            try:
                found.append(Shard(**json.loads(self._files.cat_file(path))))
            except (ValueError, TypeError) as error:
                raise CheckpointError(f"{path} is damaged ({error}); delete it, and its passages are encoded again") from error
        return found


def passage_key(text: str, base: BaseIdentity, layer: int) -> str:
    what = f"{' '.join(base.hashes)} {layer}\0{text}"
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()


class Encoder:
    """A worker of Ray's: encodes batches, and writes a shard of what is not encoded yet of each."""

    def __init__(self, base: str, out: str, device: str = "cpu") -> None:
        self._prag = DistilledPRAG.from_pretrained(base, device=device)
        self._folder = Folder(out)
        self._done = {key for shard in self._folder.shards() for key in shard.keys}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """batch: "text". Returns how many passages were encoded, and their rows."""
        base, layer = self._prag.base.identity, self._prag.states.layer
        texts = {passage_key(text, base, layer): text for text in map(str, batch["text"])}
        todo = {key: text for key, text in texts.items() if key not in self._done and text.strip()}
        if not todo:
            return {"passages": [0], "rows": [0]}
        states = self._prag.states.rows(list(todo.values()))
        data = StateAdapter(torch.cat(states).float().cpu(), layer, base).to_bytes()
        name = hashlib.sha256("".join(todo).encode()).hexdigest()[:32]
        shard = Shard(name, list(todo), list(map(len, states)), len(data), hashlib.sha256(data).hexdigest())
        self._folder.write(f"shards/{name}.safetensors", data)
        self._folder.write(f"shards/{name}.json", json.dumps(asdict(shard)).encode())
        self._done |= todo.keys()
        return {"passages": [len(todo)], "rows": [sum(shard.rows)]}


def encode_all(
    base: str,
    out: str,
    *,
    texts: Sequence[str] = (),
    parquet: Sequence[str] = (),
    column: str = "text",
    workers: int = 2,
    shard_passages: int = 256,
    say: Callable[[int], None] = lambda passages: None,
) -> dict[str, Any]:
    """Encode texts, and a column of Parquet files, and return the manifest. base: a prepared base's folder, or its encoder's.

    workers: processes, each with the base, on the cluster that RAY_ADDRESS names, or on this machine. say: told how many passages
    were encoded since it was told last. Raises ConfigError without Ray and for what Ray cannot read, and CheckpointError for an
    `out` of another base or layer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"--ray needs {error.name}: pip install 'distilledprag[ray]'") from error
    folder = Folder(out)
    prag = DistilledPRAG.from_pretrained(base)
    about = described(prag)
    _require_same(folder, about)
    begun_here = not ray.is_initialized()
    if begun_here:
        own: dict[str, Any] = {"num_cpus": workers + _READING, "object_store_memory": _STORE_MEMORY, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if os.environ.get("RAY_ADDRESS") else own))
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        on_gpu = ray.cluster_resources().get("GPU", 0) >= workers
        sources = [ray.data.from_items([{"text": text} for text in texts])] if texts else []
        if parquet:
            sources.append(ray.data.read_parquet(list(parquet), columns=[column]).rename_columns({column: "text"}))
        passages = sources[0].union(*sources[1:]) if len(sources) > 1 else sources[0]
        made = passages.map_batches(
            Encoder,
            fn_constructor_args=(base, folder.url, "cuda" if on_gpu else "cpu"),
            batch_size=shard_passages,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if on_gpu else 0,
        )  # fmt: skip
        for row in made.iter_rows():
            say(int(row["passages"]))
    except Exception as error:  # Ray wraps what goes wrong in a worker, or in reading Parquet
        reason = f"bulk encoding stopped ({_reason(error)})"
        raise ConfigError(f"{reason}; what is in {out} is kept, and the same command goes on") from error
    finally:
        if begun_here:
            ray.shutdown()
    return write_manifest(folder, about)


def described(prag: DistilledPRAG) -> dict[str, Any]:
    """What all states of a folder have in common."""
    return {"format": FORMAT, "base": prag.base.identity.to_dict(), "layer": prag.states.layer, "precision": "int8"}


def _require_same(folder: Folder, about: dict[str, Any]) -> None:
    """Raises CheckpointError where `folder` has states of another base or layer."""
    known = folder.read("about.json")
    if known is None:
        folder.write("about.json", json.dumps(about).encode())
        return
    begun = json.loads(known)
    same = all(begun.get(name) == about[name] for name in ("format", "layer", "precision"))
    if not same or not BaseIdentity.from_dict(begun["base"]).matches(BaseIdentity.from_dict(about["base"])):
        raise CheckpointError(f"{folder.url} holds the states of another base or layer; choose another --out")


def write_manifest(folder: Folder, about: dict[str, Any]) -> dict[str, Any]:
    """Of all shards that are whole. about: of `described`. Returns what was written."""
    shards = folder.shards()
    listed = [
        {"name": one.name, "passages": len(one.keys), "rows": sum(one.rows), "bytes": one.bytes, "sha256": one.sha256}
        for one in shards
    ]
    totals = {
        "passages": len({key for shard in shards for key in shard.keys}),
        "rows": sum(sum(shard.rows) for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
    }
    manifest = {**about, **totals, "shards": listed}
    folder.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


class EncodedPassages:
    """What `encode_all` wrote, to be read. Raises CheckpointError for a place without a manifest."""

    def __init__(self, url: str) -> None:
        self._folder = Folder(url)
        data = self._folder.read(MANIFEST)
        if data is None:
            raise CheckpointError(f"{url} has no {MANIFEST}; run `dprag encode --ray` to its end first")
        manifest = json.loads(data)
        self.base, self.layer = BaseIdentity.from_dict(manifest["base"]), int(manifest["layer"])

    @cached_property
    def _places(self) -> dict[str, tuple[Shard, int, int]]:
        """Of each passage its shard, and from which row to which."""
        places = {}
        for shard in self._folder.shards():
            begin = 0
            for key, count in zip(shard.keys, shard.rows, strict=True):
                places[key] = (shard, begin, begin + count)
                begin += count
        return places

    def __len__(self) -> int:
        """Number of passages."""
        return len(self._places)

    def states(self, passages: Iterable[str]) -> StateAdapter:
        """The adapter for passages in their order. Raises InputError for one that was not encoded, CheckpointError for a shard
        that is not what was written."""
        rows, read = [], {}
        for text in passages:
            place = self._places.get(passage_key(text, self.base, self.layer))
            if place is None:
                raise InputError("one of the passages is not among the encoded ones; encode it first")
            shard, begin, end = place
            if shard.name not in read:
                data = self._folder.read(f"shards/{shard.name}.safetensors")
                if data is None or hashlib.sha256(data).hexdigest() != shard.sha256:
                    raise CheckpointError(f"the shard {shard.name} is missing or damaged; delete its .json and encode again")
                read[shard.name] = StateAdapter.from_bytes(data, most=sum(shard.rows)).rows
            rows.append(read[shard.name][begin:end])
        return StateAdapter(torch.cat(rows), self.layer, self.base)
