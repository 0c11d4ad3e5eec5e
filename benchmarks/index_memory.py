"""How much memory the BM25 index over a corpus on disk takes to build and to search, for growing synthetic corpora.

Each size is built in a process of its own. Measured is anonymous memory (what the system cannot drop and read again; the
memory-mapped parts of the index are not in it), sampled every 20 ms, minus what the process had before. Prints one JSON line
and writes it to docs/results/index_memory.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilledprag.files import write_atomically
from distilledprag.retrieval.corpus_index import SHARD_PASSAGES, CorpusIndex

WIKIPEDIA = 21_015_324  # passages of psgs_w100.tsv
WORDS = 100  # per passage, as there
VOCABULARY = 1_000_000
QUESTIONS = 20
RESULT = Path(__file__).parents[1] / "docs" / "results" / "index_memory.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000, help="of the largest corpus; the others: a half and a quarter")
    parser.add_argument("--shard-passages", type=int, default=SHARD_PASSAGES)
    parser.add_argument(
        "--folder", type=Path, help="where corpora and indexes go meanwhile (3 kB per passage); default: temporary"
    )
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.shard_passages)))
        return
    rows = []
    for passages in (options.passages // 4, options.passages // 2, options.passages):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_corpus(Path(folder) / "psgs.tsv", passages)
            command = [sys.executable, __file__, "--measure", folder, "--shard-passages", str(options.shard_passages)]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    half, whole = rows[1], rows[2]
    slope = (whole["build_peak_mb"] - half["build_peak_mb"]) / (whole["passages"] - half["passages"])
    result = {
        "benchmark": "index_memory",
        "rows": rows,
        "growth_mb_per_million_passages": round(slope * 1e6, 1),
        "expected_build_peak_mb_for_wikipedia": round(whole["build_peak_mb"] + max(0.0, slope) * (WIKIPEDIA - whole["passages"])),
        "config": {"shard_passages": options.shard_passages, "words_per_passage": WORDS, "questions": QUESTIONS, "seed": 0},
        "versions": {"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in ("bm25s", "numpy")}},
        "hardware": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
    line = json.dumps(result)
    write_atomically(options.result, line + "\n")
    print(line)


def write_corpus(file: Path, passages: int) -> None:
    """Passages of 100 words, drawn by Zipf's law from a vocabulary that keeps growing (one new word in 200)."""
    chosen, known = random.Random(0), vocabulary()
    with file.open("w", encoding="utf-8") as opened:
        opened.write("id\ttext\ttitle\n")
        for number in range(1, passages + 1):
            words = drawn(chosen, known, WORDS)
            if number % 2:
                words[-1] = f"new{_letters(number)}"
            opened.write(f'{number}\t"{" ".join(words)}"\tTitle {number // 10}\n')


def vocabulary() -> list[str]:
    """Words of letters, as those of texts are; the first ones are drawn most."""
    return [f"q{_letters(number)}" for number in range(VOCABULARY)]


def drawn(chosen: random.Random, known: Sequence[str], count: int) -> list[str]:
    """So many words by Zipf's law."""
    return [known[int(VOCABULARY ** chosen.random())] for _ in range(count)]


def _letters(number: int) -> str:
    """A number in base 26."""
    word = chr(97 + number % 26)
    return word if number < 26 else _letters(number // 26) + word


def measure(folder: Path, shard_passages: int) -> dict[str, Any]:
    """One row: the corpus `folder`/psgs.tsv is indexed and searched; megabytes are 10^6 bytes."""
    chosen, known, times = random.Random(1), vocabulary(), []
    questions = [" ".join(drawn(chosen, known, 10)) for _ in range(QUESTIONS)]
    before = Peak.anonymous()
    with Peak() as build:
        begin = time.perf_counter()
        index = CorpusIndex.build(folder / "psgs.tsv", folder / "index", shard_passages)
        seconds = time.perf_counter() - begin
    with Peak() as search:
        for question in questions:
            begin = time.perf_counter()
            index.retrieve(question, 3)
            times.append(time.perf_counter() - begin)
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    return {
        "passages": len(index),
        "shards": -(-len(index) // shard_passages),
        "build_peak_mb": round((build.bytes - before) / 1e6, 1),
        "search_peak_mb": round((search.bytes - before) / 1e6, 1),
        "index_bytes_per_passage": round(size / len(index)),
        "build_seconds": round(seconds, 2),
        "search_median_seconds": round(sorted(times)[len(times) // 2], 4),
    }


class Peak:
    """The peak of this process's anonymous memory, in bytes, while the block ran (Linux)."""

    def __enter__(self) -> Peak:
        self.bytes, self._stop = self.anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, self.anonymous())

    @staticmethod
    def anonymous() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024


if __name__ == "__main__":
    main()
