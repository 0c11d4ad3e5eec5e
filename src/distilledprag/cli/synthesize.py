"""`dprag synthesize`: let an LLM write question-answer pairs about documents."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from distilledprag.documents.reading import Reading
from distilledprag.errors import ConfigError, EndpointError, InputError
from distilledprag.files import write_atomically
from distilledprag.synthesis import DocumentSample, QaSettings, Replies, Synthesis, plan_items, read_documents
from distilledprag.synthesis.endpoint import RESPONSE_FORMATS, Endpoint, EndpointSettings
from distilledprag.synthesis.llm import LanguageModel
from distilledprag.synthesis.output import check_output, make_report, rejected_lines, write_rows
from distilledprag.synthesis.run import Outcome

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Options:
    """The options of the command line, except those of the questions (`QaSettings`)."""

    docs: list[Path]
    out: Path
    model: str
    base_url: str | None
    api_key_file: Path | None
    journal: Path | None
    limit: int | None
    partners: int
    passage_words: int
    min_words: int
    titles: bool
    seed: int
    retries: int
    timeout: float
    response_format: str
    extra_body: str | None
    reading: Reading


def run(options: Options, questions: Mapping[str, Any]) -> None:
    """Write pairs, report and rejected pairs. Raises EndpointError at the end if some requests failed, InputError if some files
    could not be read."""
    settings = _settings(questions)
    check_output(options.out)
    endpoint = _endpoint_settings(options)
    console = Console(stderr=True)
    sample = _read(options, console)
    items = plan_items(sample.documents, options.partners, options.seed)
    journal_file = options.journal or options.out.with_name(options.out.name + ".journal.jsonl")
    with Replies(journal_file) as replies:
        if endpoint:
            console.print(f"documents are sent in plain text to {escape(endpoint.base_url)}", soft_wrap=True)
        model = Endpoint(endpoint, seed=options.seed) if endpoint else _local(options.model, settings.concurrency)
        synthesis = Synthesis(items, model, replies, settings)
        if len(replies):
            console.print(f"{journal_file} holds {len(replies):,} answered requests; they are not sent again", soft_wrap=True)
        started = time.perf_counter()
        try:
            outcomes = asyncio.run(_run(synthesis, model, console))
        except KeyboardInterrupt:
            console.print(f"{len(replies):,} answered requests are kept in {journal_file}; run again to go on", soft_wrap=True)
            raise
        reading = options.reading
        report = make_report(
            synthesis, outcomes, sample,
            retried=getattr(model, "retried", {}), changed=getattr(model, "changed", []), seconds=time.perf_counter() - started,
            config={
                name: _plain(value)
                for name, value in (vars(options) | {"limits": reading.limits, "ocr": reading.ocr_language}).items()
                if name not in ("model", "api_key_file", "reading")
            },
        )  # fmt: skip
    _write(options.out, outcomes, report)
    _show(options.out, report)
    failed = {reason: count for reason, count in report["unfinished"].items() if not reason.startswith("the budget")}
    if failed:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in failed.items())
        raise EndpointError(f"{sum(failed.values())} of {len(items)} items are unfinished ({reasons}); run again to go on")
    if not report["pairs"]:
        raise EndpointError(f"no pair was good enough to keep; {options.out}.report.json says why")
    if sample.failed:
        raise InputError(
            f"{len(sample.failed)} files could not be read (named above); the pairs are about all others. Mend or remove them "
            "and run again"
        )


def _settings(questions: Mapping[str, Any]) -> QaSettings:
    try:
        return QaSettings(**questions)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])) from error


def _endpoint_settings(options: Options) -> EndpointSettings | None:
    """None for a local model. Raises ConfigError."""
    if options.base_url is None:
        return None
    if options.response_format not in ("text", *RESPONSE_FORMATS):
        raise ConfigError(f"unknown --response-format; choose from text, {', '.join(RESPONSE_FORMATS)}")
    key = os.environ.get(KEY_VARIABLE, "none")
    if options.api_key_file:
        key = options.api_key_file.read_text().strip()
        if not key:
            raise ConfigError(f"{options.api_key_file} is empty; write the API key into it")
    try:
        extra = json.loads(options.extra_body or "{}")
        if not isinstance(extra, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise ConfigError(f"--extra-body is not a JSON object ({error}); write it like '{{\"top_p\": 0.9}}'") from error
    return EndpointSettings(
        options.base_url, options.model, key, options.timeout, options.retries,
        response_format=options.response_format, extra=extra,
    )  # fmt: skip


def _local(path: str, batch: int) -> LanguageModel:
    from distilledprag.synthesis.local import LocalModel  # imports torch

    return LocalModel(path, batch)


def _read(options: Options, console: Console) -> DocumentSample:
    with console.status("reading documents") as status, options.reading.pool() as reading:
        sample = read_documents(
            options.docs, limit=options.limit, seed=options.seed, passage_words=options.passage_words,
            min_words=options.min_words, titles=options.titles, load=reading.read, pictures=options.reading.ocr,
            on_file=lambda file: status.update(f"reading documents ({escape(file.name)})"),
        )  # fmt: skip
    for note in sample.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for reason in sample.failed:
        console.print(f"not read: {escape(reason)}", soft_wrap=True)
    return sample


async def _run(synthesis: Synthesis, model: LanguageModel, console: Console) -> list[Outcome]:
    """Run with a progress bar: items, pairs, pairs per second of this run, tokens or cost of all runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("asking", total=len(synthesis.items), facts="")
        started = time.perf_counter()

        def on_item() -> None:
            rate = synthesis.pairs_now / (time.perf_counter() - started)
            progress.update(bar, advance=1, facts=f"{synthesis.pairs:,} pairs, {rate:.2f} pairs/s, {_spent(synthesis)}")

        try:
            return await synthesis.run(on_item)
        finally:
            await model.close()


def _spent(synthesis: Synthesis) -> str:
    cost = synthesis.usage.cost(synthesis.settings)
    tokens = synthesis.usage.prompt_tokens + synthesis.usage.completion_tokens
    return f"{tokens:,} tokens" if cost is None else f"${cost:.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _write(out: Path, outcomes: list[Outcome], report: Mapping[str, Any]) -> None:
    write_rows(outcomes, out)
    write_atomically(out.with_name(out.name + ".rejected.jsonl"), rejected_lines(outcomes))
    write_atomically(out.with_name(out.name + ".report.json"), json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _show(out: Path, report: Mapping[str, Any]) -> None:
    console = Console()
    kinds = Table("", "items", "pairs", "below minimum", "unfinished", title=f"{report['pairs']:,} pairs in {out}")
    for kind, row in report["kinds"].items():
        kinds.add_row(kind, *(f"{row[name]:,}" for name in ("items", "pairs", "below_minimum", "unfinished")))
    console.print(kinds)
    if report["rejected"]:
        rejected = Table("rejected", "why", "", title=f"every rejected pair: {out}.rejected.jsonl")
        for reason, row in report["rejected"].items():
            rejected.add_row(f"{row['count']:,}", reason, row["meaning"])
        console.print(rejected)
    for change in report["changed"]:
        console.print(change, soft_wrap=True, markup=False)
    now, ever = report["requests"]["this_run"], report["requests"]["all_runs"]
    cost = "" if ever["cost_usd"] is None else f", ${ever['cost_usd']:.4f}"
    console.print(
        f"{ever['answered']:,} requests ({now['answered']:,} now), {ever['prompt_tokens']:,} + {ever['completion_tokens']:,} "
        f"tokens{cost}; {sum(report['retried'].values()):,} tries repeated; {report['seconds']:.1f} s; report: {out}.report.json",
        soft_wrap=True,
        markup=False,
    )
