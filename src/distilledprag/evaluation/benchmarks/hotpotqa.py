"""HotpotQA (Yang et al. 2018), in the form of `hotpot_dev_distractor_v1.json`."""

from __future__ import annotations

from pathlib import Path

from distilledprag.evaluation.benchmarks.multihop import load_multihop
from distilledprag.evaluation.benchmarks.record import BenchmarkQuestion

TYPES = ("bridge", "comparison")
REMEDY = "get hotpot_dev_distractor_v1.json from hotpotqa.github.io again (the test file has no answers)"


def load_hotpotqa(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions, each with its ten paragraphs; subtasks: bridge, comparison. Raises InputError naming the entry."""
    return load_multihop(Path(file), "hotpotqa", TYPES, REMEDY)
