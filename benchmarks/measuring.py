"""What every part of `make bench` shares: ways measured side by side in one process, their medians, and questions to ask.

Each round runs every way once, in an order that turns, so that a busy machine slows all of them alike. Seconds are of the clock;
processor seconds are those of this process, and on a machine that does other things their ratios are the steadier ones.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORDS = 120  # of a passage


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock and of the processor."""

    seconds: float
    processor: float


class Watch:
    """Started when it is made; `spent` since then."""

    def __init__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def spent(self) -> Spent:
        """On a GPU, once it has done what it was told."""
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return Spent(time.perf_counter() - self._begin[0], time.process_time() - self._begin[1])


def side_by_side(ways: Mapping[str, Callable[[int], object]], rounds: int, warm: int = 1) -> dict[str, list[Spent]]:
    """What each way took in each round; `warm` rounds before do not count. A way is told the round's number."""
    found: dict[str, list[Spent]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-warm, rounds):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            gc.collect()
            watch = Watch()
            ways[name](max(0, number))
            if number >= 0:
                found[name].append(watch.spent())
    return found


def medians(spent: Sequence[Spent]) -> dict[str, float]:
    """Medians, and how many they are of."""
    return {
        "seconds": round(statistics.median(one.seconds for one in spent), 5),
        "processor_seconds": round(statistics.median(one.processor for one in spent), 5),
        "runs": len(spent),
    }


def ratio(ours: Sequence[Spent], theirs: Sequence[Spent]) -> dict[str, float]:
    """Our median over theirs, by the clock and by the processor."""
    mine, other = medians(ours), medians(theirs)
    return {name: round(mine[name] / other[name], 3) for name in ("seconds", "processor_seconds")}


@dataclass(frozen=True)
class Asked:
    """A question about three passages of some 120 words, one of which holds its answer."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]


def questions(count: int, passages: int = 3) -> list[Asked]:
    """The everyday questions of the test data; a passage is a document, followed by others up to 120 words."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (ROOT / "tests/data/everyday.jsonl").read_text().splitlines()]
    documents = list(dict.fromkeys(document["text"] for row in rows for document in row["documents"]))
    asked = []
    for number in range(count):
        row = rows[number % len(rows)]
        own = row["documents"][0]["text"]
        others = [text for text in documents if text != own]
        turn = number % len(others)
        others = others[turn:] + others[:turn]
        begins = [own, *others[: passages - 1]]
        made = [_filled(begin, others[passages - 1 + 5 * place :]) for place, begin in enumerate(begins)]
        at = number % passages
        made[0], made[at] = made[at], made[0]
        asked.append(Asked(row["question"], tuple(row["answers"]), tuple(made)))
    return asked


def _filled(text: str, more: Sequence[str]) -> str:
    """`text` and sentences of others behind it, up to 120 words."""
    sentences = [sentence for other in more for sentence in other.split(". ")]
    for sentence in sentences:
        if len(text.split()) + len(sentence.split()) <= WORDS:
            text = f"{text} {sentence.rstrip('.')}."
    return text
