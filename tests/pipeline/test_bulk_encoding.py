"""Bulk encoding: every passage once, whatever is killed, in files that say what they hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from distilledprag.bulk_encoding import EncodedPassages, Encoder, Folder, described, passage_key, write_manifest
from distilledprag.errors import CheckpointError, InputError
from distilledprag.lora.states import StateAdapter
from distilledprag.pipeline import DistilledPRAG

TEXTS = [f"Passage {number}: part K-{number} weighs {number % 97} grams." for number in range(1200)]


@pytest.fixture(scope="module")
def prag(tiny_prepared_folder):
    return DistilledPRAG.from_pretrained(tiny_prepared_folder)


def test_a_worker_encodes_what_is_in_no_shard_and_the_states_are_those_of_one_passage_alone(prag, tiny_prepared_folder):
    url = "memory://bulk/states"
    encode = Encoder(str(tiny_prepared_folder), url)
    assert encode({"text": [*TEXTS[:5], TEXTS[0], " "]})["passages"] == [5]
    assert Encoder(str(tiny_prepared_folder), url)({"text": TEXTS[3:8]})["passages"] == [3]
    assert encode({"text": TEXTS[2:5]}) == {"passages": [0], "rows": [0]}
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        EncodedPassages(url)
    manifest = write_manifest(Folder(url), described(prag))
    encoded = EncodedPassages(url)
    assert manifest["passages"] == len(encoded) == 8 and len(manifest["shards"]) == 2
    wanted = [TEXTS[7], TEXTS[1]]
    assert encoded.states(wanted).rows.equal(StateAdapter.from_bytes(prag.encode_states(wanted).to_bytes()).rows)
    with pytest.raises(InputError, match="not among the encoded"):
        encoded.states([TEXTS[9]])


def test_a_shard_that_is_not_what_was_written_is_not_used(prag, tiny_prepared_folder, tmp_path):
    Encoder(str(tiny_prepared_folder), str(tmp_path))({"text": TEXTS[:2]})
    write_manifest(Folder(str(tmp_path)), described(prag))
    (shard,) = (tmp_path / "shards").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        EncodedPassages(str(tmp_path)).states(TEXTS[:1])
    (list_file,) = (tmp_path / "shards").glob("*.json")
    list_file.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        Folder(str(tmp_path)).shards()


@pytest.mark.slow
@pytest.mark.scale
def test_every_passage_is_encoded_once_though_driver_and_worker_are_killed(prag, tiny_prepared_folder, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("ray")
    half, out, said = len(TEXTS) // 2, tmp_path / "states", tmp_path / "said"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:half]))
    parquet.write_table(pyarrow.table({"body": TEXTS[half:]}), tmp_path / "rows.parquet", row_group_size=200)
    # Workers run at the priority of other programs, and a machine short of memory for other reasons kills none.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}

    def start(*more):
        files = [tmp_path / "rows.jsonl", tmp_path / "rows.parquet", *more]
        options = ["--ray", "--out", out, "--base", tiny_prepared_folder, "--shard-passages", "8", "--text-column", "body"]
        command = [sys.executable, "-m", "distilledprag", "encode", "--json", *map(str, [*files, *options])]
        with said.open("w") as output:  # no pipe: Ray's own processes would hold it open
            return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def finished(process):
        assert process.wait(timeout=300) == 0, said.read_text()
        return json.loads(next(line for line in said.read_text().splitlines() if line.startswith("{")))

    def wait_for(process, shards):
        while len(list(out.glob("shards/*.json"))) < shards:
            assert process.poll() is None, said.read_text()
            time.sleep(0.02)

    process = start()
    wait_for(process, 5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    process = start()
    wait_for(process, len(list(out.glob("shards/*.json"))) + 5)
    workers = [one for one in psutil.Process(process.pid).children(recursive=True) if one.name().startswith("ray::MapWork")]
    assert len(workers) == 2
    workers[0].kill()
    assert finished(process)["passages"] == len(TEXTS)
    keys = Counter(key for shard in Folder(str(out)).shards() for key in shard.keys)
    assert keys == Counter(passage_key(text, prag.base.identity, prag.states.layer) for text in TEXTS)
    wanted = TEXTS[half - 20 : half + 20]
    assert (
        EncodedPassages(str(out)).states(wanted).rows.equal(StateAdapter.from_bytes(prag.encode_states(wanted).to_bytes()).rows)
    )
    (tmp_path / "more.txt").write_text("Another passage.")
    before = {file: file.stat().st_mtime_ns for file in out.glob("shards/*")}
    assert finished(start(tmp_path / "more.txt"))["passages"] == len(TEXTS) + 1
    assert {file: file.stat().st_mtime_ns for file in before} == before and len(list(out.glob("shards/*"))) == len(before) + 2
