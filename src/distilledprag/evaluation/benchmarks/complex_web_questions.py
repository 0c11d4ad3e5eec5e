"""ComplexWebQuestions (Talmor and Berant 2018), in the form of `ComplexWebQuestions_dev.json`. It comes without passages."""

from __future__ import annotations

from pathlib import Path

from distilledprag.evaluation.benchmarks.reading import Entry, read_entries, with_unique_ids
from distilledprag.evaluation.benchmarks.record import WHOLE, BenchmarkQuestion

REMEDY = "get ComplexWebQuestions_dev.json from tau-nlp.sites.tau.ac.il/compwebq again"


def load_complex_web_questions(file: str | Path, skip_unnamed: bool = False) -> list[BenchmarkQuestion]:
    """The questions; all of one subtask. Answers: each answer followed by its aliases.

    An answer may be null (an entity that Freebase gives no name); then only its aliases count. skip_unnamed: leave out
    questions that have no named answer at all instead of raising. Raises InputError naming the entry.
    """
    file = Path(file)
    questions = []
    for entry in read_entries(file, REMEDY):
        answers = _answers(entry)
        if not answers:
            if skip_unnamed:
                continue
            raise entry.error("has no answer with a name (load with skip_unnamed=True to leave such questions out)")
        question, identifier = entry.text("question"), entry.identifier("ID")
        questions.append(BenchmarkQuestion(identifier, "complexwebquestions", WHOLE, question, answers))
    return with_unique_ids(file, questions, REMEDY)


def _answers(entry: Entry) -> tuple[str, ...]:
    found: list[str] = []
    for answer in entry.children("answers", "answer"):
        if answer.value("answer") is not None:
            found.append(answer.text("answer"))
        found += answer.texts("aliases")
    return tuple(dict.fromkeys(found))
