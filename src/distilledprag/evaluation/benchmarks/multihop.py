"""The entry format that HotpotQA made and 2WikiMultihopQA took over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distilledprag.documents.passages import Passage, clean
from distilledprag.evaluation.benchmarks.reading import Entry, read_entries, with_unique_ids
from distilledprag.evaluation.benchmarks.record import BenchmarkQuestion


def load_multihop(
    file: Path,
    benchmark: str,
    types: Sequence[str],
    remedy: str,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> list[BenchmarkQuestion]:
    """A list of `{_id, question, answer, type, supporting_facts, context}` -> questions; `type` becomes the subtask.

    aliases: of an answer, by the entry's `answer_id` (2WikiMultihopQA only). Raises InputError naming the entry.
    """
    questions = []
    for entry in read_entries(file, remedy):
        answer = entry.text("answer")
        answer_id = entry.fields.get("answer_id")
        others = aliases.get(answer_id, ()) if aliases and isinstance(answer_id, str) else ()
        facts = _supporting_facts(entry)
        questions.append(
            BenchmarkQuestion(
                id=entry.identifier("_id"),
                benchmark=benchmark,
                subtask=entry.choice("type", types),
                question=entry.text("question"),
                answers=tuple(dict.fromkeys([answer, *others])),
                passages=_passages(entry, str(file)),
                gold_titles=tuple(dict.fromkeys(title for title, _ in facts)),
                supporting_facts=facts,
            )
        )
    return with_unique_ids(file, questions, remedy)


def _passages(entry: Entry, source: str) -> tuple[Passage, ...]:
    """One passage per paragraph of `context`, its sentences joined by spaces; paragraphs without text are left out."""
    found = []
    for index, paragraph in enumerate(entry.items("context")):
        match paragraph:
            case [str(title), list(sentences)] if all(isinstance(sentence, str) for sentence in sentences):
                if text := clean(" ".join(sentences)):
                    found.append(Passage(text, source, title.strip(), index))
            case _:
                raise entry.error(f'has a paragraph {index + 1} of "context" that is not [title, [sentence, ...]]')
    return tuple(found)


def _supporting_facts(entry: Entry) -> tuple[tuple[str, int], ...]:
    """(title, sentence number) as the file gives them; a few of HotpotQA's numbers lie beyond their paragraph."""
    found = []
    for number, fact in enumerate(entry.items("supporting_facts"), start=1):
        match fact:
            case [str(title), int(sentence)] if sentence >= 0:
                found.append((title.strip(), sentence))
            case _:
                raise entry.error(f"has a supporting fact {number} that is not [title, number of a sentence from 0]")
    return tuple(found)
