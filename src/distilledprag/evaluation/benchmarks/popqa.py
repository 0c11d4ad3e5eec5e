"""PopQA (Mallen et al. 2023): `popQA.tsv` as published, or a JSON list of its rows with passages (`paragraphs`)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from distilledprag.documents.passages import Passage, clean
from distilledprag.documents.readers.text import decode
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmarks.reading import Entry, read_entries, with_unique_ids
from distilledprag.evaluation.benchmarks.record import WHOLE, BenchmarkQuestion

COLUMNS = ("id", "obj", "s_wiki_title", "question", "possible_answers")
REMEDY = "get popQA.tsv from github.com/AlexTMallen/adaptive-retrieval again"


def load_popqa(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions; all of one subtask. Answers: `obj`, then the rest of `possible_answers`.

    A `.tsv` has no passages, and the gold title is the article about the question's subject. In a `.json` file each row may
    have `paragraphs`: `[{title, text, is_supporting}]`, and the gold titles are those of the supporting ones.
    Raises InputError naming the line or entry.
    """
    file = Path(file)
    entries = read_entries(file, REMEDY) if file.suffix.lower() == ".json" else _read_tsv(file)
    return with_unique_ids(file, (_question(entry, str(file)) for entry in entries), REMEDY)


def _question(entry: Entry, source: str) -> BenchmarkQuestion:
    try:
        answers = Entry({"possible_answers": json.loads(entry.text("possible_answers"))}, entry.place, entry.remedy)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise entry.error(f'has "possible_answers" that are not a JSON list ({error})') from error
    passages, gold_titles = [], []
    if "paragraphs" in entry.fields:
        for index, paragraph in enumerate(entry.children("paragraphs", "paragraph")):
            passages.append(Passage(clean(paragraph.text("text")), source, paragraph.text("title"), index))
            if paragraph.fields.get("is_supporting") is True:
                gold_titles.append(passages[-1].title)
    else:
        gold_titles.append(entry.text("s_wiki_title"))
    return BenchmarkQuestion(
        id=entry.identifier("id"),
        benchmark="popqa",
        subtask=WHOLE,
        question=entry.text("question"),
        answers=tuple(dict.fromkeys([entry.text("obj"), *answers.texts("possible_answers")])),
        passages=tuple(passages),
        gold_titles=tuple(dict.fromkeys(gold_titles)),
    )


def _read_tsv(file: Path) -> list[Entry]:
    """The rows by the names in the first line; quoted as spreadsheet programs do."""
    if not file.is_file():
        raise InputError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; check the path, or {REMEDY}")
    rows = csv.reader(io.StringIO(decode(file), newline=""), delimiter="\t", strict=True)
    entries: list[Entry] = []
    try:
        header = next(rows, [])
        if missing := [column for column in COLUMNS if column not in header]:
            raise InputError(f"{file}, line 1 does not name the column {', '.join(missing)}; {REMEDY}")
        for row in rows:
            if row:
                place = f"{file}, line {rows.line_num},"
                if len(row) != len(header):
                    raise InputError(f"{place} has {len(row)} columns in place of {len(header)}; {REMEDY}")
                entries.append(Entry(dict(zip(header, row, strict=True)), place, REMEDY))
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num} cannot be read ({error}); {REMEDY}") from error
    if not entries:
        raise InputError(f"{file} holds no questions; {REMEDY}")
    return entries
