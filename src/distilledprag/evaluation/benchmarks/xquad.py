"""XQuAD (Artetxe et al. 2020) and other files in SQuAD's 1.1 format: a question about one paragraph, the answer a span of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distilledprag.documents.passages import Passage, clean
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmarks.reading import Entry, read_json, with_unique_ids
from distilledprag.evaluation.benchmarks.record import WHOLE, BenchmarkQuestion

REMEDY = "get xquad.en.json from github.com/google-deepmind/xquad again (SQuAD 1.1 files work too, SQuAD 2.0 files do not)"


def load_xquad(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions, each with its paragraph as only passage; all of one subtask.

    Raises InputError naming the article, paragraph and question, also for an answer that does not stand where the file says.
    """
    file = Path(file)
    whole = Entry(read_json(file, REMEDY), f"{file}", REMEDY)
    questions = with_unique_ids(file, _questions(whole, str(file)), REMEDY)
    if not questions:
        raise InputError(f"{file} holds no questions; {REMEDY}")
    return questions


def _questions(whole: Entry, source: str) -> Iterator[BenchmarkQuestion]:
    index = 0
    for article in whole.children("data", "article"):
        title = article.text("title").replace("_", " ")
        for paragraph in article.children("paragraphs", "paragraph"):
            context = paragraph.value("context")
            passage = Passage(clean(paragraph.text("context")), source, title, index)
            index += 1
            for question in paragraph.children("qas", "question"):
                yield BenchmarkQuestion(
                    id=question.identifier("id"),
                    benchmark="xquad",
                    subtask=WHOLE,
                    question=question.text("question"),
                    answers=_answers(question, context),
                    passages=(passage,),
                    gold_titles=(title,),
                )


def _answers(question: Entry, context: str) -> tuple[str, ...]:
    found = []
    for answer in question.children("answers", "answer"):
        stripped, text, start = answer.text("text"), answer.value("text"), answer.value("answer_start")
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            raise answer.error(f'does not stand at character {start} of its "context"')
        found.append(stripped)
    if not found:
        raise question.error("has no answers")
    return tuple(dict.fromkeys(found))
