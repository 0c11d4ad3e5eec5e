"""An evaluation recipe: which questions, which passages, which methods. `dprag evaluate --data` makes one from its options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, field_validator, model_validator

from distilledprag.baselines.prag import PragSettings, PromptVariant
from distilledprag.evaluation.methods import CHOSEN_ROWS, METHODS, STATE_METHODS

ROWS_MAX_NEW_TOKENS, ROWS_BATCH_SIZE = 24, 16


class Part(Settings):
    model_config = ConfigDict(extra="forbid")


class BenchmarkSource(Part):
    """A benchmark's file.

    limit: None takes all questions. Without `seed` the first `limit` of each subtask are taken, in the file's order (the
    protocol of PRAG and DistilledPRAG); with it `limit` questions of the whole file are drawn, and those of a smaller limit
    come first in a larger one. subtasks: only these. options: of the loader, such as `aliases` of 2wikimultihopqa and
    `skip_unnamed` of complexwebquestions.
    """

    source: Literal["benchmark"] = "benchmark"
    name: str
    file: Path
    subtasks: list[str] | None = None
    limit: int | None = Field(300, gt=0)
    seed: int | None = None
    options: dict[str, Any] = {}


class FileRetriever(Part):
    """The passages that come with each question: as given, or ranked. encoder: of dense and hybrid, a folder or hub id."""

    kind: Literal["file"] = "file"
    order: Literal["given", "bm25", "dense", "hybrid"] = "bm25"
    encoder: str | None = None


class PoolRetriever(Part):
    """The passages of all questions of all the recipe's files, each once. encoder: as of FileRetriever."""

    kind: Literal["pool"] = "pool"
    order: Literal["bm25", "dense", "hybrid"] = "bm25"
    encoder: str | None = None


class CorpusRetriever(Part):
    """A BM25 index on disk (`CorpusIndex`); built if it is not there and `corpus` is given."""

    kind: Literal["corpus"] = "corpus"
    index: Path
    corpus: Path | None = None


class ElasticsearchRetriever(Part):
    """An Elasticsearch or OpenSearch index. The key is read from the environment variable `api_key_variable`, if it is set.
    words_field: of an index that `retrieval.elasticsearch.index_passages` made; None: the server cuts the words."""

    kind: Literal["elasticsearch"] = "elasticsearch"
    url: str
    index: str
    text_field: str = "txt"
    title_field: str = "title"
    api_key_variable: str = "ELASTICSEARCH_API_KEY"
    timeout: float = Field(30.0, gt=0)
    words_field: str | None = None


class PragPart(Part):
    """`adapters`: folder that keeps them; `augmented`: PRAG's data_aug folders or files; `pairs`: `dprag synthesize` files.
    Without either, passages get `templated` questions each by `templated_questions`, which no LLM wrote."""

    settings: PragSettings = PragSettings()
    adapters: Path | None = None
    augmented: list[Path] = []
    pairs: list[Path] = []
    templated: int = Field(5, gt=0)


class EvaluationRecipe(Part):
    """What `dprag evaluate` runs.

    data: of several benchmarks, subtasks are named "benchmark/subtask". top_k: passages of a question; None: all that come
    with it. titles: whether a passage's title is put before its text. skip_long: leave out questions whose passages do not fit
    into the prompt, or have more tokens than the base has numbered masks. layer: after which states are written (None: the
    base's own). chosen_rows: what `state_chosen` keeps of the passages, a share of the rows or a number of rows. noise: on
    rows that are written exactly, in standard deviations; rows_sent_as: their precision; round_to: a passage's masks and rows
    are rounded up to a multiple. checkpoints: a generator's folder for each trained method. prompt_variant: methods that
    deviate from the masked prompt. max_new_tokens: the budget of every method. first_line: cut answers at the end of their
    first line. metric: whose script computes F1. batch_size: questions answered together (seconds are then a share of the
    batch's; with 1 they are those of one user). training_pairs: `dprag synthesize` files; the summary says how much the
    questions' passages repeat their documents.
    """

    task: Literal["evaluate"] = "evaluate"
    output: Path
    base: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    data: BenchmarkSource | Annotated[list[BenchmarkSource], Field(min_length=1)]
    retriever: Annotated[
        FileRetriever | PoolRetriever | CorpusRetriever | ElasticsearchRetriever, Field(discriminator="kind")
    ] = FileRetriever()
    top_k: int | None = Field(3, gt=0)
    titles: bool = True
    skip_long: bool = False
    methods: list[str] = Field(min_length=1)
    layer: int | None = Field(None, ge=0)
    chosen_rows: float = Field(CHOSEN_ROWS, gt=0)
    noise: float = Field(0.0, ge=0)
    rows_sent_as: Literal["int8", "float16"] = "int8"
    round_to: int = Field(1, gt=0)
    checkpoints: dict[str, str] = {}
    prag: PragPart = PragPart()
    prompt_variant: dict[str, PromptVariant] = {}
    max_new_tokens: int = Field(32, gt=0)
    first_line: bool = False
    metric: Literal["hotpotqa", "squad"] = "hotpotqa"
    batch_size: int = Field(1, gt=0)
    training_pairs: list[Path] = []

    @property
    def sources(self) -> list[BenchmarkSource]:
        return self.data if isinstance(self.data, list) else [self.data]

    @field_validator("prompt_variant")
    @classmethod
    def deviating(cls, variants: dict[str, PromptVariant]) -> dict[str, PromptVariant]:
        for name in _known(variants):
            if METHODS[name].needs in (None, "states"):
                raise ValueError(f"{name} has one prompt only; take it out of prompt_variant")
        return variants

    @field_validator("methods")
    @classmethod
    def known(cls, methods: list[str]) -> list[str]:
        if len(set(_known(methods))) != len(methods):
            raise ValueError("a method is named twice")
        return methods

    @model_validator(mode="after")
    def countable(self) -> EvaluationRecipe:
        if self.top_k is None and not isinstance(self.retriever, FileRetriever):
            raise ValueError("top_k: a retriever over a corpus needs a number of passages")
        return self


def _known(names: Any) -> list[str]:
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return list(names)


def rows_recipe(
    file: Path,
    *,
    output: Path,
    n: int | None,
    seed: int,
    methods: list[str] | None,
    base: str | None,
    chosen_rows: float,
    checkpoints: Mapping[str, str] | None = None,
    retrieved: int | None = None,
    retriever: str | None = None,
) -> dict[str, Any]:
    """The recipe, not yet checked, of `dprag evaluate --data FILE`: `n` rows (None: all) with the passages that they name.

    methods: None takes the bounds (closed book, RAG), state adapters and their control. retrieved: so many passages that are
    found among all of the file's, in place of those that a row names. retriever: bm25 (None), dense or hybrid finds them;
    without `retrieved` the best three of a row's passages are used, by None all as they are given.
    """
    return {
        "output": str(output),
        "base": base,
        "dtype": "auto",
        "data": {"name": "rows", "file": str(file), "limit": n, "seed": seed},
        "retriever": {"kind": "pool", "order": retriever or "bm25"}
        if retrieved
        else {"kind": "file", "order": retriever or "given"},
        "top_k": retrieved or (None if retriever is None else 3),
        "checkpoints": dict(checkpoints or {}),
        "prag": {"adapters": str(output / "prag-adapters")},
        "skip_long": True,
        "methods": methods if methods is not None else ["closed_book", "rag", *STATE_METHODS],
        "chosen_rows": chosen_rows,
        "max_new_tokens": ROWS_MAX_NEW_TOKENS,
        "first_line": True,
        "metric": "squad",
        "batch_size": ROWS_BATCH_SIZE,
    }
