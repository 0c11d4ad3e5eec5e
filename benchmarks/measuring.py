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
    """Our median over theirs, by the clock and by the processor. spread: how far the latter is off by chance, as a share of it,
    from the rounds' own ratios (the median's standard error)."""
    mine, other = medians(ours), medians(theirs)
    found = {name: round(mine[name] / other[name], 3) for name in ("seconds", "processor_seconds")}
    return {**found, "spread": _spread([one.processor / two.processor for one, two in zip(ours, theirs, strict=True)])}


def _spread(ratios: Sequence[float]) -> float:
    middle = statistics.median(ratios)
    deviation = 1.48 * statistics.median(abs(one - middle) for one in ratios)  # that of a normal distribution
    return round(1.25 * deviation / middle / len(ratios) ** 0.5, 3)


@dataclass(frozen=True)
class Asked:
    """A question about passages, one of which holds its answer."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]


def questions(count: int, passages: int = 3, words: int = WORDS) -> list[Asked]:
    """The everyday questions of the test data. A passage is a document, followed by sentences of others up to so many words; no
    two of a question are the same."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (ROOT / "tests/data/everyday.jsonl").read_text().splitlines()]
    documents = list(dict.fromkeys(document["text"] for row in rows for document in row["documents"]))
    asked = []
    for number in range(count):
        row = rows[number % len(rows)]
        own = row["documents"][0]["text"]
        others = _turned([text for text in documents if text != own], number)
        made = [
            _filled(begin, _turned(others, passages - 1 + 5 * place), words)
            for place, begin in enumerate([own, *others][:passages])
        ]
        while len(made) < passages:  # sentences of others only, in another order
            made.append(_filled("", _turned(others[::-1], len(made)), words))
        at = number % passages
        made[0], made[at] = made[at], made[0]
        asked.append(Asked(row["question"], tuple(row["answers"]), tuple(made)))
    return asked


def _turned(texts: list[str], by: int) -> list[str]:
    return texts[by % len(texts) :] + texts[: by % len(texts)]


def _filled(text: str, more: Sequence[str], words: int) -> str:
    """`text` and sentences of others behind it, up to so many words."""
    for sentence in (sentence for other in more for sentence in other.split(". ")):
        if len(text.split()) + len(sentence.split()) <= words:
            text = f"{text} {sentence.rstrip('.')}.".strip()
    return text


def passages_of(tokenizer: Any, tokens: int, count: int = 1) -> list[str]:
    """Texts of some `tokens` tokens each, cut one behind the other from the questions' passages."""
    text = " ".join(dict.fromkeys(passage for one in questions(60) for passage in one.passages))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) >= tokens * count
    return [tokenizer.decode(ids[begin : begin + tokens]).strip() for begin in range(0, tokens * count, tokens)]
