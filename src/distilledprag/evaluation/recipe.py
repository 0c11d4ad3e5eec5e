"""An evaluation recipe: which questions, which passages, which methods. Knows nothing about how they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, field_validator

from distilledprag.baselines.prag import PragSettings
from distilledprag.baselines.recipes import PromptStyle
from distilledprag.evaluation.methods import METHODS, NEEDS


class Part(Settings):
    model_config = ConfigDict(extra="forbid")


class BenchmarkSource(Part):
    """A benchmark's file. `first`: so many questions of each subtask (None: all); `subtasks`: these only; `options`: of its
    loader, as `aliases` of 2wikimultihopqa and `skip_unnamed` of complexwebquestions."""

    source: Literal["benchmark"] = "benchmark"
    name: str
    file: Path
    subtasks: list[str] | None = None
    first: int | None = Field(300, gt=0)
    options: dict[str, Any] = {}


class FileRetriever(Part):
    """The passages that come with each question: as given, or the best of them by BM25."""

    kind: Literal["file"] = "file"
    order: Literal["given", "bm25"] = "bm25"


class CorpusRetriever(Part):
    """A BM25 index on disk (`CorpusIndex`); built if it is not there and `corpus` is given."""

    kind: Literal["corpus"] = "corpus"
    index: Path
    corpus: Path | None = None


class ElasticsearchRetriever(Part):
    """An Elasticsearch or OpenSearch index. The key is read from the variable `api_key_variable`, if it is set."""

    kind: Literal["elasticsearch"] = "elasticsearch"
    url: str
    index: str
    text_field: str = "txt"
    title_field: str = "title"
    api_key_variable: str = "ELASTICSEARCH_API_KEY"
    timeout: float = Field(30.0, gt=0)


class PragPart(Part):
    """`adapters`: folder that keeps them; `augmented`: PRAG's data_aug folders or files; `pairs`: `dprag synthesize` files."""

    settings: PragSettings = PragSettings()
    adapters: Path | None = None
    augmented: list[Path] = []
    pairs: list[Path] = []


class EvaluationRecipe(Part):
    """`data`: of several benchmarks, subtasks are named "benchmark/subtask". `checkpoints`: a generator's folder for each
    parametric method that runs. `styles`: methods that deviate from the masked prompt. `answer_tokens`: the budget of every
    method. `titles`: whether a passage's title is put before its text. `batch`: questions answered together (seconds are then
    a share of the batch's; 1: those of one user). `training_pairs`: `dprag synthesize` files whose documents the questions'
    are compared with."""

    task: Literal["evaluate"] = "evaluate"
    output: Path
    base: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    data: BenchmarkSource | Annotated[list[BenchmarkSource], Field(min_length=1)]
    retriever: Annotated[FileRetriever | CorpusRetriever | ElasticsearchRetriever, Field(discriminator="kind")] = FileRetriever()
    top_k: int = Field(3, gt=0)
    titles: bool = True
    methods: list[str] = Field(min_length=1)
    checkpoints: dict[str, str] = {}
    prag: PragPart = PragPart()
    styles: dict[str, PromptStyle] = {}
    answer_tokens: int = Field(32, gt=0)
    batch: int = Field(1, gt=0)
    training_pairs: list[Path] = []

    @field_validator("styles")
    @classmethod
    def deviating(cls, styles: dict[str, PromptStyle]) -> dict[str, PromptStyle]:
        for name in styles:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
            if name not in NEEDS:
                raise ValueError(f"{name} has one prompt only; take it out of styles")
        return styles

    @field_validator("methods")
    @classmethod
    def known(cls, methods: list[str]) -> list[str]:
        for name in methods:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
        if len(set(methods)) != len(methods):
            raise ValueError("a method is named twice")
        return methods
