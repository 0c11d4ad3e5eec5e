"""The questions of a recipe, each with the passages that every method reads, and with those of its shuffled control.

Also questions by templates, without any LLM: one of a passage's names, numbers or dates is left out of its sentence. They are for
measuring what an adapter gives away (`dprag audit`), and for PRAG where nobody has written questions about its documents.

    "The deposit is $2,680."  ->  What belongs in the place of ____ in this sentence: The deposit is ____.   /   $2,680
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from distilledprag.baselines import AugmentedDocument, documents_of_pairs
from distilledprag.distillation.pair_data import read_pairs
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.benchmark_files import BenchmarkQuestion, first_per_subtask
from distilledprag.evaluation.benchmarks import load_augmented_passages, load_benchmark
from distilledprag.evaluation.methods import METHODS, Question
from distilledprag.evaluation.metrics import answer_recall_at_k, recall_at_k
from distilledprag.evaluation.overlap import minhash, nearest, summarise
from distilledprag.evaluation.recipe import (
    BenchmarkSource,
    CorpusRetriever,
    EvaluationRecipe,
    FileRetriever,
    PoolRetriever,
    PragPart,
)
from distilledprag.retrieval.bm25 import Retriever
from distilledprag.retrieval.corpus_index import CorpusIndex
from distilledprag.retrieval.dense import SentenceEncoder, memory_retriever
from distilledprag.retrieval.elasticsearch import ElasticsearchRetriever
from distilledprag.words import sentences, titled

Fits = Callable[[Sequence[str]], bool]


def load_questions(recipe: EvaluationRecipe, fits: Fits | None = None) -> list[Question]:
    """All questions of the recipe, with the passages of their controls, and with what PRAG trains on where it runs.

    fits: of a question's passages, whether they can be read; questions whose passages cannot are left out. Raises InputError
    for files that cannot be used and questions without passages, ConfigError for subtasks that do not exist.
    """
    sources = [(source, _of_source(source)) for source in recipe.sources]
    retriever = _retriever(recipe, [question for _, found in sources for question in found])
    questions: list[Question] = []
    begin = 0
    for source, found in sources:
        taken = _taken(recipe, source, found, retriever, fits)
        if not taken:
            raise InputError(f"{source.file} holds no question with an answer and passages that fit")
        questions += [replace(one, index=begin + one.index) for one in taken]
        begin += len(found)
    if any(METHODS[method].needs == "prag" for method in recipe.methods):
        questions = with_augmented(questions, recipe.prag)
    return with_others(questions)


def _of_source(source: BenchmarkSource) -> list[BenchmarkQuestion]:
    """All questions of the chosen subtasks, in the order in which they are taken."""
    questions = load_benchmark(source.name, source.file, **source.options)
    if source.subtasks is not None:
        present = sorted({question.subtask for question in questions})
        if missing := sorted(set(source.subtasks) - set(present)):
            raise ConfigError(f"{source.file} has no subtask {', '.join(missing)}; it has {', '.join(present)}")
        questions = [question for question in questions if question.subtask in source.subtasks]
    if source.seed is not None:
        random.Random(source.seed).shuffle(questions)
    return questions


def _taken(
    recipe: EvaluationRecipe,
    source: BenchmarkSource,
    questions: list[BenchmarkQuestion],
    retriever: Retriever | None,
    fits: Fits | None,
) -> list[Question]:
    """The first `limit` that fit, numbered in the order in which they are taken."""
    drawn = source.seed is not None
    first = questions if drawn or source.limit is None else first_per_subtask(questions, source.limit)
    wanted = set(map(id, first))
    taken: list[Question] = []
    for place, question in enumerate(questions):
        if drawn and len(taken) == source.limit:
            break
        if id(question) in wanted:
            one = _asked(recipe, question, retriever, len(taken) if drawn else place)
            if fits is None or fits(one.passages):
                taken.append(one)
    return taken


def with_augmented(questions: Sequence[Question], prag: PragPart) -> list[Question]:
    """The questions with what PRAG trains on.

    Templated questions where the recipe names no other source. Raises InputError for a passage that the named source does not
    have.
    """
    known: dict[str, AugmentedDocument] = {}
    for path in prag.augmented:
        for passages in load_augmented_passages(path).values():
            for made in passages:
                pairs = tuple((question, answer) for question, answer, _ in made.questions)
                known[made.text] = AugmentedDocument(made.text, made.rewrite, pairs)
    known |= documents_of_pairs(prag.pairs)
    if not known:
        for text in dict.fromkeys(text for one in questions for text in one.passages):
            known[text] = asked_document(text, templated_questions(text, prag.templated))
    found = []
    for one in questions:
        if missing := [text for text in one.passages if text not in known]:
            raise InputError(f"prag has no questions about the passage {missing[0][:80]!r} of question {one.id}")
        found.append(replace(one, augmented=tuple(known[text] for text in one.passages)))
    return found


def asked_document(text: str, questions: Sequence[tuple[str, str]]) -> AugmentedDocument:
    """What PRAG trains on with templated questions; a passage that has none is asked for as a whole."""
    return AugmentedDocument(text, "", tuple(questions) or (("What does the passage say?", text),))


def with_others(questions: Sequence[Question]) -> list[Question]:
    """The questions with the passages of their shuffled controls: those of the next question that has others (for the last
    questions of the list, counted on from its beginning)."""
    found = []
    for place, one in enumerate(questions):
        own = set(one.passages)
        following = [*range(place + 1, len(questions)), *range(place)]
        having = (questions[index] for index in following if questions[index].passages)
        other = next((o for o in having if not own.intersection(o.passages)), None)
        if other is None:
            having = (questions[index] for index in following if questions[index].passages)
            other = next((o for o in having if o.passages != one.passages), one)
        found.append(replace(one, other_passages=other.passages, other_augmented=other.augmented))
    return found


def overlap_of(files: Sequence[Path], questions: Sequence[Question]) -> dict[str, Any]:
    """`overlap`: how much the questions' passages repeat the documents of the training pairs; nothing without files."""
    if not files:
        return {}
    training = dict.fromkeys(document for file in files for pair in read_pairs(file) for document in pair.documents)
    tested = dict.fromkeys(text for one in questions for text in one.passages)
    return {"overlap": summarise(nearest(minhash(list(tested)), minhash(list(training))))}


def _retriever(recipe: EvaluationRecipe, questions: Sequence[BenchmarkQuestion]) -> Retriever | None:
    settings = recipe.retriever
    if isinstance(settings, FileRetriever):
        return None
    if isinstance(settings, PoolRetriever):
        pool = list({passage.text: passage for one in questions for passage in one.passages}.values())
        encoder = None if settings.order == "bm25" else _encoder(settings.encoder)
        return memory_retriever(settings.order, pool, encoder)
    if isinstance(settings, CorpusRetriever):
        return CorpusIndex.build(settings.corpus, settings.index) if settings.corpus else CorpusIndex(settings.index)
    return ElasticsearchRetriever(**settings.model_dump(exclude={"kind"}))


@cache
def _encoder(name: str | None) -> SentenceEncoder:
    return SentenceEncoder(name)


def _asked(recipe: EvaluationRecipe, question: BenchmarkQuestion, retriever: Retriever | None, index: int) -> Question:
    """The question with its passages, found now."""
    began = time.perf_counter()
    if retriever is not None and recipe.top_k is not None:
        found = [passage for passage, _ in retriever.retrieve(question.question, recipe.top_k)]
    else:
        found = list(question.passages)
        if not found:
            raise InputError(f"question {question.id} comes without passages; choose a retriever over a corpus")
        count = min(recipe.top_k or len(found), len(found))
        settings = recipe.retriever
        if isinstance(settings, FileRetriever) and settings.order != "given":
            encoder = None if settings.order == "bm25" else _encoder(settings.encoder)
            ranking = memory_retriever(settings.order, found, encoder)
            found = [passage for passage, _ in ranking.retrieve(question.question, count)]
        found = found[:count]
    seconds = time.perf_counter() - began
    k = recipe.top_k or max(1, len(found))
    recall = {"answer_recall": answer_recall_at_k([passage.text for passage in found], question.answers, k)}
    if question.gold_titles:
        recall["title_recall"] = recall_at_k([passage.title for passage in found], question.gold_titles, k)
    return Question(
        text=question.question,
        answers=question.answers,
        passages=tuple(titled(p.title, p.text) if recipe.titles else p.text for p in found),
        index=index,
        id=question.id,
        dataset=question.benchmark,
        type=question.subtask,
        retrieve_seconds=seconds,
        recall=recall,
    )


# --- templated questions

BLANK = "____"
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}},?)?(?: \d{{4}})?"
_NUMBER = r"[$€£]?\d(?:[\d,.]*\d)?%?"
_NAME = r"[A-Z][\w'’-]*(?:(?: (?:of|the|de|von|van|del|la))* [A-Z][\w'’-]*)*"
_FACT = re.compile(rf"(?<![\w$€£])(?:{_DATE}|{_NUMBER}|{_NAME})(?!\w)")
WORD = re.compile(r"[\w'’-][\w,.'’-]*\w|\w")
_NO_NAME = frozenset(
    "A An And As At But By For From He Her His However I If In It Its No Not On Or She So That The Their Then There These They "
    "This Those To Under Was We When Where Which While Who With You".split()
)


def facts(text: str) -> list[tuple[str, str]]:
    """(sentence, fact): the names, numbers and dates of a text, in order. A sentence's first word counts as no name by itself."""
    found = []
    for sentence in sentences(text):
        for match in _FACT.finditer(sentence):
            words = match.group()
            first, _, rest = words.partition(" ")
            begin = match.start()
            if first in _NO_NAME or (begin == 0 and not rest and words[0].isalpha()):
                words, begin = rest, begin + len(first) + 1
            if words and (len(words) > 1 or words.isdigit()):
                found.append((sentence, words))
    return found


def templated_questions(text: str, most: int = 5) -> list[tuple[str, str]]:
    """At most `most` (question, answer) pairs about a passage, spread over its facts; fewer where it has fewer.

    A fact that stands in its sentence twice, or was asked for before, is passed over.
    """
    usable: dict[str, str] = {}
    for sentence, fact in facts(text):
        if sentence.count(fact) == 1 and len(sentence.split()) > 3:
            usable.setdefault(fact, sentence)
    names = list(usable)
    if len(names) > most:
        step = len(names) / most
        names = [names[int((place + 0.5) * step)] for place in range(most)]
    return [
        (f"What belongs in the place of {BLANK} in this sentence: {usable[fact].replace(fact, BLANK)}", fact) for fact in names
    ]


def telling_words(text: str) -> list[str]:
    """The single words of a text's names, and its numbers: what one would least like to give away. In order, each once."""
    found = [word for _, fact in facts(text) for word in WORD.findall(fact) if not word.islower()]
    return list(dict.fromkeys(found))
