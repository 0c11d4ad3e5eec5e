"""PRAG's augmented files, `data_aug/<dataset>/<model>/<subtask>.json` (Su et al. 2025): questions with the passages that BM25
found for them, and for each passage a rewrite and question-answer pairs to train a LoRA on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distilledprag.documents.passages import Passage, clean
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmarks.reading import Entry, read_entries, with_unique_ids
from distilledprag.evaluation.benchmarks.record import WHOLE, BenchmarkQuestion

REMEDY = "unpack data_aug from github.com/oneal2000/PRAG again, and name a folder data_aug/<dataset>/<model>"


@dataclass(frozen=True)
class AugmentedPassage:
    """A passage, the same in other words, and (question, short answer, full answer) about it, written by an LLM."""

    text: str
    rewrite: str
    questions: tuple[tuple[str, str, str], ...]


def load_data_aug(path: str | Path) -> list[BenchmarkQuestion]:
    """The questions of a folder `data_aug/<dataset>/<model>`, or of one of its files, each with its retrieved passages.

    The dataset's folder gives the benchmark, the file's name the subtask. As in PRAG, `total.json` is passed over in a folder
    with other files: there it repeats their questions, without passages. Raises InputError naming the entry.
    """
    questions = []
    for file in _files(Path(path)):
        benchmark, subtask = file.absolute().parent.parent.name, file.stem
        found = [_question(entry, benchmark, subtask, str(file)) for entry in read_entries(file, REMEDY)]
        questions += with_unique_ids(file, found, REMEDY)
    return questions


def load_augmented_passages(path: str | Path) -> dict[tuple[str, str], tuple[AugmentedPassage, ...]]:
    """What the LLM wrote about each question's passages, in their order, by (subtask, id of the question).

    path: as for `load_data_aug`. Raises InputError naming the entry.
    """
    found = {}
    for file in _files(Path(path)):
        for entry in read_entries(file, REMEDY):
            passages = tuple(_augmented(passage) for passage in entry.children("augment", "augmented passage"))
            if [passage.text for passage in passages] != _passages(entry):
                raise entry.error('has other passages in "augment" than in "passages"')
            found[file.stem, entry.identifier("qid", "test_id")] = passages
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise InputError(f"{path} holds no .json files; {REMEDY}")
    return [file for file in files if file.stem != WHOLE] or files


def _question(entry: Entry, benchmark: str, subtask: str, source: str) -> BenchmarkQuestion:
    answers = entry.texts("answer") if isinstance(entry.value("answer"), list) else (entry.text("answer"),)
    if not answers:
        raise entry.error('has an empty "answer"')
    if subtask != WHOLE and "type" in entry.fields:
        entry.choice("type", [subtask])
    return BenchmarkQuestion(
        id=entry.identifier("qid", "test_id"),
        benchmark=benchmark,
        subtask=subtask,
        question=entry.text("question"),
        answers=answers,
        passages=tuple(Passage(text, source, index=index) for index, text in enumerate(_passages(entry))),
    )


def _passages(entry: Entry) -> list[str]:
    """At least one; the same passage may stand twice, so this is no set."""
    texts = entry.items("passages")
    if not texts:
        raise entry.error("has no passages")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise entry.error('has something else than texts in "passages", or an empty one')
    return [clean(text) for text in texts]


def _augmented(passage: Entry) -> AugmentedPassage:
    """`{pid, passage, "<model>_rewrite", "<model>_qa"}`; the model is the one that the keys name."""
    keys = {}
    for ending in ("_rewrite", "_qa"):
        named = [key for key in passage.fields if key.endswith(ending)]
        if len(named) != 1:
            raise passage.error(f'has {len(named)} fields "<model>{ending}" in place of one')
        keys[ending] = named[0]
    pairs = passage.children(keys["_qa"], "pair")
    return AugmentedPassage(
        clean(passage.text("passage")),
        passage.text(keys["_rewrite"]),
        tuple((pair.text("question"), _answer(pair, "answer"), str(pair.fields.get("full_answer") or "")) for pair in pairs),
    )


def _answer(pair: Entry, key: str) -> str:
    """A text or a number: LLMs write years and counts without quotes."""
    value = pair.value(key)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else pair.text(key)
