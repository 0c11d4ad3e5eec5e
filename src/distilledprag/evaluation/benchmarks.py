"""Benchmarks in their owners' file formats -> `BenchmarkQuestion`. Users bring the files; nothing is downloaded.

2wikimultihopqa, hotpotqa   lists of {_id, question, answer, type, supporting_facts, context}
popqa                       popQA.tsv, or a JSON list of its rows with passages
complexwebquestions         ComplexWebQuestions_dev.json, which comes without passages
xquad                       SQuAD's 1.1 format
data_aug                    PRAG's augmented files, with the passages that BM25 found and what an LLM wrote about them
rows                        JSON lines {documents: [{title, text}], question, answers, type}, gzipped or not
"""

from __future__ import annotations

import csv
import inspect
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.distillation.contexts import passage_text, read_rows
from distilledprag.documents.passages import Passage, clean
from distilledprag.encodings import decode
from distilledprag.errors import InputError
from distilledprag.evaluation.benchmark_files import (
    WHOLE,
    BenchmarkQuestion,
    Entry,
    read_entries,
    read_json,
    with_unique_ids,
)


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
                passages=_paragraphs(entry, str(file)),
                gold_titles=tuple(dict.fromkeys(title for title, _ in facts)),
                supporting_facts=facts,
            )
        )
    return with_unique_ids(file, questions, remedy)


def _paragraphs(entry: Entry, source: str) -> tuple[Passage, ...]:
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


HOTPOTQA_TYPES = ("bridge", "comparison")
HOTPOTQA_REMEDY = "get hotpot_dev_distractor_v1.json from hotpotqa.github.io again (the test file has no answers)"


def load_hotpotqa(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions, each with its ten paragraphs; subtasks: bridge, comparison. Raises InputError naming the entry."""
    return load_multihop(Path(file), "hotpotqa", HOTPOTQA_TYPES, HOTPOTQA_REMEDY)


TWO_WIKI_TYPES = ("comparison", "bridge_comparison", "inference", "compositional")
TWO_WIKI_REMEDY = "get dev.json from github.com/Alab-NII/2wikimultihop again (the test file has no answers)"
ALIASES_REMEDY = "get id_aliases.json from github.com/Alab-NII/2wikimultihop (data_ids) again"


def load_two_wiki(file: str | Path, aliases: str | Path | None = None) -> list[BenchmarkQuestion]:
    """The questions, each with its ten paragraphs; subtasks: the four types.

    aliases: `id_aliases.json`. With it, an answer that has an `answer_id` may also be given by that entity's aliases and
    demonyms, as in the owners' evaluation script 1.1. (PRAG takes the aliases only, in place of the written answer.)
    Raises InputError naming the entry or line.
    """
    names = _read_aliases(Path(aliases)) if aliases is not None else None
    return load_multihop(Path(file), "2wikimultihopqa", TWO_WIKI_TYPES, TWO_WIKI_REMEDY, names)


def _read_aliases(file: Path) -> dict[str, tuple[str, ...]]:
    """Lines of `{Q_id, aliases, demonyms}` -> other names, by Wikidata id."""
    if not file.is_file():
        raise InputError(f"{file} does not exist; check the path, or {ALIASES_REMEDY}")
    found = {}
    for number, line in enumerate(decode(file.read_bytes(), str(file))[0].split("\n"), start=1):
        if line.strip():
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise InputError(f"{file}, line {number} is not JSON ({error}); {ALIASES_REMEDY}") from error
            entry = Entry(fields, f"{file}, line {number}", ALIASES_REMEDY)
            found[entry.text("Q_id")] = entry.texts("aliases") + entry.texts("demonyms")
    return found


POPQA_COLUMNS = ("id", "obj", "s_wiki_title", "question", "possible_answers")
POPQA_REMEDY = "get popQA.tsv from github.com/AlexTMallen/adaptive-retrieval again"


def load_popqa(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions; all of one subtask. Answers: `obj`, then the rest of `possible_answers`.

    A `.tsv` has no passages, and the gold title is the article about the question's subject. In a `.json` file each row may
    have `paragraphs`: `[{title, text, is_supporting}]`, and the gold titles are those of the supporting ones.
    Raises InputError naming the line or entry.
    """
    file = Path(file)
    entries = read_entries(file, POPQA_REMEDY) if file.suffix.lower() == ".json" else _read_popqa_tsv(file)
    return with_unique_ids(file, (_popqa_question(entry, str(file)) for entry in entries), POPQA_REMEDY)


def _popqa_question(entry: Entry, source: str) -> BenchmarkQuestion:
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


def _read_popqa_tsv(file: Path) -> list[Entry]:
    """The rows by the names in the first line; quoted as spreadsheet programs do."""
    if not file.is_file():
        raise InputError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; check the path, or {POPQA_REMEDY}")
    rows = csv.reader(io.StringIO(decode(file.read_bytes(), str(file))[0], newline=""), delimiter="\t", strict=True)
    entries: list[Entry] = []
    try:
        header = next(rows, [])
        if missing := [column for column in POPQA_COLUMNS if column not in header]:
            raise InputError(f"{file}, line 1 does not name the column {', '.join(missing)}; {POPQA_REMEDY}")
        for row in rows:
            if row:
                place = f"{file}, line {rows.line_num},"
                if len(row) != len(header):
                    raise InputError(f"{place} has {len(row)} columns in place of {len(header)}; {POPQA_REMEDY}")
                entries.append(Entry(dict(zip(header, row, strict=True)), place, POPQA_REMEDY))
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num} cannot be read ({error}); {POPQA_REMEDY}") from error
    if not entries:
        raise InputError(f"{file} holds no questions; {POPQA_REMEDY}")
    return entries


CWQ_REMEDY = "get ComplexWebQuestions_dev.json from tau-nlp.sites.tau.ac.il/compwebq again"


def load_complex_web_questions(file: str | Path, skip_unnamed: bool = False) -> list[BenchmarkQuestion]:
    """The questions; all of one subtask. Answers: each answer followed by its aliases.

    An answer may be null (an entity that Freebase gives no name); then only its aliases count. skip_unnamed: leave out
    questions that have no named answer at all instead of raising. Raises InputError naming the entry.
    """
    file = Path(file)
    questions = []
    for entry in read_entries(file, CWQ_REMEDY):
        answers = _named_answers(entry)
        if not answers:
            if skip_unnamed:
                continue
            raise entry.error("has no answer with a name (load with skip_unnamed=True to leave such questions out)")
        question, identifier = entry.text("question"), entry.identifier("ID")
        questions.append(BenchmarkQuestion(identifier, "complexwebquestions", WHOLE, question, answers))
    return with_unique_ids(file, questions, CWQ_REMEDY)


def _named_answers(entry: Entry) -> tuple[str, ...]:
    found: list[str] = []
    for answer in entry.children("answers", "answer"):
        if answer.value("answer") is not None:
            found.append(answer.text("answer"))
        found += answer.texts("aliases")
    return tuple(dict.fromkeys(found))


XQUAD_REMEDY = "get xquad.en.json from github.com/google-deepmind/xquad again (SQuAD 1.1 files work too, SQuAD 2.0 files do not)"


def load_xquad(file: str | Path) -> list[BenchmarkQuestion]:
    """The questions, each with its paragraph as only passage; all of one subtask.

    Raises InputError naming the article, paragraph and question, also for an answer that does not stand where the file says.
    """
    file = Path(file)
    whole = Entry(read_json(file, XQUAD_REMEDY), f"{file}", XQUAD_REMEDY)
    questions = with_unique_ids(file, _xquad_questions(whole, str(file)), XQUAD_REMEDY)
    if not questions:
        raise InputError(f"{file} holds no questions; {XQUAD_REMEDY}")
    return questions


def _xquad_questions(whole: Entry, source: str) -> Iterator[BenchmarkQuestion]:
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
                    answers=_spans(question, context),
                    passages=(passage,),
                    gold_titles=(title,),
                )


def _spans(question: Entry, context: str) -> tuple[str, ...]:
    found = []
    for answer in question.children("answers", "answer"):
        stripped, text, start = answer.text("text"), answer.value("text"), answer.value("answer_start")
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            raise answer.error(f'does not stand at character {start} of its "context"')
        found.append(stripped)
    if not found:
        raise question.error("has no answers")
    return tuple(dict.fromkeys(found))


DATA_AUG_REMEDY = "unpack data_aug from github.com/oneal2000/PRAG again, and name a folder data_aug/<dataset>/<model>"


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
        found = [_data_aug_question(entry, benchmark, subtask, str(file)) for entry in read_entries(file, DATA_AUG_REMEDY)]
        questions += with_unique_ids(file, found, DATA_AUG_REMEDY)
    return questions


def load_augmented_passages(path: str | Path) -> dict[tuple[str, str], tuple[AugmentedPassage, ...]]:
    """What the LLM wrote about each question's passages, in their order, by (subtask, id of the question).

    path: as for `load_data_aug`. Raises InputError naming the entry.
    """
    found = {}
    for file in _files(Path(path)):
        for entry in read_entries(file, DATA_AUG_REMEDY):
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
        raise InputError(f"{path} holds no .json files; {DATA_AUG_REMEDY}")
    return [file for file in files if file.stem != WHOLE] or files


def _data_aug_question(entry: Entry, benchmark: str, subtask: str, source: str) -> BenchmarkQuestion:
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
        tuple(
            (pair.text("question"), _text_or_number(pair, "answer"), str(pair.fields.get("full_answer") or "")) for pair in pairs
        ),
    )


def _text_or_number(pair: Entry, key: str) -> str:
    """A text or a number: LLMs write years and counts without quotes."""
    value = pair.value(key)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else pair.text(key)


def load_rows(file: str | Path) -> list[BenchmarkQuestion]:
    """The rows that have an answer and a passage with text; the line's number is the id, `type` the subtask.

    A passage is its title and its text. Raises InputError naming the line, and for a file without such a row.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} does not exist; rows are JSON lines of documents, question and answers")
    questions = []
    for number, row in enumerate(read_rows(file), start=1):
        passages = tuple(Passage(passage_text(each), str(file), index=place) for place, each in enumerate(row["documents"]))
        answers = tuple(str(answer) for answer in row["answers"] if str(answer).strip())
        question = row["question"].strip()
        if answers and question and any(passage.text.strip() for passage in passages):
            kind = str(row.get("type") or "unnamed")
            questions.append(BenchmarkQuestion(str(number), file.name.split(".")[0], kind, question, answers, passages))
    if not questions:
        raise InputError(f"{file} holds no questions with an answer and passages")
    return questions


LOADERS: dict[str, Callable[..., list[BenchmarkQuestion]]] = {
    "2wikimultihopqa": load_two_wiki,
    "hotpotqa": load_hotpotqa,
    "popqa": load_popqa,
    "complexwebquestions": load_complex_web_questions,
    "xquad": load_xquad,
    "data_aug": load_data_aug,
    "rows": load_rows,
}


def load_benchmark(name: str, path: str | Path, **options: Any) -> list[BenchmarkQuestion]:
    """The questions of the benchmark `name` (a key of LOADERS) in the file or folder `path`, in the file's order. options: of
    its loader.

    Raises InputError for an unknown name or option, and naming the line or entry for a file that is not in its owners' format.
    """
    if name not in LOADERS:
        raise InputError(f'there is no benchmark "{name}"; choose one of {", ".join(LOADERS)}')
    known = list(inspect.signature(LOADERS[name]).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"the loader of {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return LOADERS[name](path, **options)
