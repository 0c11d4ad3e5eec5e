"""Questions with the passages that every method gets. Knows nothing about models.

The shuffled control's passages are those of the next question that has others (the last one's: of the first).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilledprag.baselines.augmented import AugmentedDocument, documents_of_pairs
from distilledprag.distillation.pair_data import read_pairs
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.benchmarks import (
    BenchmarkQuestion,
    first_per_subtask,
    load_augmented_passages,
    load_benchmark,
)
from distilledprag.evaluation.metrics import answer_recall_at_k, recall_at_k
from distilledprag.evaluation.overlap import minhash, nearest, summarise
from distilledprag.evaluation.recipe import (
    BenchmarkSource,
    CorpusRetriever,
    EvaluationRecipe,
    FileRetriever,
    PragPart,
)
from distilledprag.retrieval.bm25 import BM25Retriever, ElasticsearchRetriever, Retriever
from distilledprag.retrieval.corpus_index import CorpusIndex


@dataclass(frozen=True)
class Asked:
    """A question, its retrieved passages as the methods read them, and what is measured about them."""

    question: BenchmarkQuestion
    texts: tuple[str, ...]
    retrieve_seconds: float
    recall: dict[str, float]
    augmented: tuple[AugmentedDocument, ...] = ()

    @property
    def key(self) -> str:
        """Unique in a run."""
        return f"{self.question.subtask}/{self.question.id}"


def passage_ids(texts: Sequence[str]) -> list[str]:
    """A hash (16 hex digits) of each passage as it is read."""
    return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


def load_questions(recipe: EvaluationRecipe) -> list[Asked]:
    """All questions of the recipe in order. Raises InputError for files that cannot be used, or a question without passages."""
    source = recipe.data
    retriever = _retriever(recipe)
    if isinstance(source, list):
        questions = [replace(q, subtask=f"{q.benchmark}/{q.subtask}") for one in source for q in _of_benchmark(one)]
    else:
        questions = _of_benchmark(source)
    return [_asked(recipe, question, retriever) for question in questions]


def _of_benchmark(source: BenchmarkSource) -> list[BenchmarkQuestion]:
    questions = load_benchmark(source.name, source.file, **source.options)
    if source.subtasks is not None:
        present = sorted({question.subtask for question in questions})
        if missing := sorted(set(source.subtasks) - set(present)):
            raise ConfigError(f"{source.file} has no subtask {', '.join(missing)}; it has {', '.join(present)}")
        questions = [question for question in questions if question.subtask in source.subtasks]
    return questions if source.first is None else first_per_subtask(questions, source.first)


def with_augmented(asked: Sequence[Asked], prag: PragPart) -> list[Asked]:
    """The questions with what PRAG trains on.

    Raises ConfigError when the recipe names no source of it, InputError for a passage that the source does not have.
    """
    known: dict[str, AugmentedDocument] = {}
    for path in prag.augmented:
        for passages in load_augmented_passages(path).values():
            for made in passages:
                pairs = tuple((question, answer) for question, answer, _ in made.questions)
                known[made.text] = AugmentedDocument(made.text, made.rewrite, pairs)
    known |= documents_of_pairs(prag.pairs)
    if not known:
        raise ConfigError("prag trains on questions about the passages: name their source, prag.augmented or prag.pairs")
    found = []
    for one in asked:
        if missing := [text for text in one.texts if text not in known]:
            raise InputError(f"prag has no questions about the passage {missing[0][:80]!r} of question {one.key}")
        found.append(replace(one, augmented=tuple(known[text] for text in one.texts)))
    return found


def overlap_of(files: Sequence[Path], asked: Sequence[Asked]) -> dict[str, Any]:
    """`overlap`: how much the questions' passages repeat the documents of the training pairs; nothing without files."""
    if not files:
        return {}
    training = dict.fromkeys(document for file in files for pair in read_pairs(file) for document in pair.documents)
    tested = dict.fromkeys(text for one in asked for text in one.texts)
    return {"overlap": summarise(nearest(minhash(list(tested)), minhash(list(training))))}


def _retriever(recipe: EvaluationRecipe) -> Retriever | None:
    settings: Any = recipe.retriever
    if isinstance(settings, FileRetriever):
        return None
    if isinstance(settings, CorpusRetriever):
        return CorpusIndex.build(settings.corpus, settings.index) if settings.corpus else CorpusIndex(settings.index)
    return ElasticsearchRetriever(**settings.model_dump(exclude={"kind"}))


def _asked(recipe: EvaluationRecipe, question: BenchmarkQuestion, retriever: Retriever | None) -> Asked:
    began = time.perf_counter()
    if retriever is not None:
        found = [passage for passage, _ in retriever.retrieve(question.question, recipe.top_k)]
    else:
        found = list(question.passages)
        if not found:
            raise InputError(f"question {question.id} comes without passages; choose a retriever over a corpus")
        if isinstance(recipe.retriever, FileRetriever) and recipe.retriever.order == "bm25":
            ranked = BM25Retriever(found).retrieve(question.question, min(recipe.top_k, len(found)))
            found = [passage for passage, _ in ranked]
        found = found[: recipe.top_k]
    seconds = time.perf_counter() - began
    recall = {"answer_recall": answer_recall_at_k([passage.text for passage in found], question.answers, recipe.top_k)}
    if question.gold_titles:
        recall["title_recall"] = recall_at_k([passage.title for passage in found], question.gold_titles, recipe.top_k)
    texts = tuple(f"{p.title}\n{p.text}" if recipe.titles and p.title else p.text for p in found)
    return Asked(question, texts, seconds, recall)
