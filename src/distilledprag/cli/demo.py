"""`dprag demo`: ten questions over the sample documents, what left the machine for each, and the answers side by side."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from distilledprag.cli.ask import load_with_progress, shortened
from distilledprag.distillation.contexts import passage_text
from distilledprag.documents.reading import USUAL
from distilledprag.errors import DistilledPRAGError, InputError
from distilledprag.evaluation.metrics import best_token_scores, exact_match, squad_scores
from distilledprag.pipeline import DistilledPRAG
from distilledprag.retrieval import BM25Retriever
from distilledprag.words import titled

_PACKAGED = Path(__file__).parents[1] / "examples"  # the wheel brings the sample documents; a checkout has them beside src
EXAMPLES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "examples"
WANTED_RAG = 9


def run() -> None:
    """Raises InputError without the sample documents, DistilledPRAGError when the answers are not what they should be."""
    console = Console()
    documents, questions = EXAMPLES / "documents", EXAMPLES / "questions.jsonl"
    if not questions.exists():
        raise InputError(f"the sample documents are not at {EXAMPLES}; run the demo from a checkout of the repository")
    retriever = BM25Retriever(load_with_progress([documents], console, USUAL).passages)
    files = sorted({Path(passage.source).name for passage in retriever.passages})
    console.print(f"[bold]{len(retriever.passages)} passages[/bold] from {', '.join(files)}. They stay on this machine.\n")
    prag = DistilledPRAG.from_pretrained(say=console.print)
    table = Table("question", "answer wanted", "DistilledPRAG", "closed book", "plain RAG", title="Ten questions")
    right = {"ours": 0, "closed": 0, "rag": 0}
    lines = questions.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        answer = prag.answer(row["question"], retriever=retriever)
        texts = [titled(passage.title, passage.text) for passage, _ in answer.passages]
        made = {"ours": answer.text, "closed": prag.answer_closed_book(row["question"])}
        made["rag"] = prag.answer_rag(row["question"], texts)
        console.rule(f"{number}. {escape(row['question'])}", align="left")
        for passage, _ in answer.passages:
            console.print(f"[dim]stays here  {escape(Path(passage.source).name)}:[/dim] {escape(passage.text)}", soft_wrap=True)
        size = f"+ {answer.sent.masks} rows of states, {answer.sent.adapter_bytes:,} bytes"
        console.print(Panel(escape(shortened(answer.sent.prompt)), title="what leaves this machine", subtitle=size))
        console.print(
            f"answer: [bold]{escape(made['ours'])}[/bold]   closed book: {escape(made['closed'])}   RAG: {escape(made['rag'])}\n"
        )
        cells = []
        for name, text in made.items():
            good = bool(exact_match(text, row["answer"]))
            right[name] += good
            cells.append(f"[green]{escape(text)}[/green]" if good else f"[red]{escape(text)}[/red]")
        table.add_row(escape(row["question"]), escape(row["answer"]), *cells)
    table.add_section()
    table.add_row("right", "", *(f"{count} of {len(lines)}" for count in right.values()))
    console.print(table)
    if right["rag"] < WANTED_RAG or right["ours"] < right["rag"] - 1 or right["closed"]:
        raise DistilledPRAGError(
            f"the demo did not work: of {len(lines)} answers {right['ours']} are right, {right['rag']} by plain RAG (at least "
            f"{WANTED_RAG} wanted, and ours at most one less), and {right['closed']} without the documents, where none should be"
        )
    _squad(prag, console)
    program = escape(own_command())
    console.print(f'Ask your own: [bold]{program} ask "QUESTION" --docs FILE_OR_FOLDER --compare[/bold]')
    console.print(
        f"In a browser, over HTTP, beside what is sent: [bold]{program} serve[/bold] (then drop documents into the page)"
    )


def _squad(prag: DistilledPRAG, console: Console) -> None:
    """Ten questions of SQuAD's dev set (CC BY-SA 4.0), each over its own Wikipedia paragraph, drawn at random."""
    table = Table("question (SQuAD dev)", "gold", "DistilledPRAG", "plain RAG", title="Ten real questions")
    scores: dict[str, list[float]] = {"ours": [], "rag": []}
    for line in (EXAMPLES / "squad_dev.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        passages = [passage_text(document) for document in row["documents"]]
        made = {"ours": prag.answer(row["question"], documents=passages).text, "rag": prag.answer_rag(row["question"], passages)}
        for name, text in made.items():
            scores[name].append(best_token_scores(text, row["answers"], squad_scores).f1)
        table.add_row(*(escape(text) for text in (row["question"], row["answers"][0], made["ours"], made["rag"])))
    table.add_section()
    table.add_row("token F1", "", *(f"{sum(values) / len(values):.2f}" for values in scores.values()))
    console.print(table)


def own_command() -> str:
    """How this program is called from here: `dprag` where that is on the PATH, else its path, such as `.venv/bin/dprag`."""
    program, found = Path(sys.argv[0]).absolute(), shutil.which("dprag")
    if program.name != "dprag" or (found and os.path.realpath(found) == os.path.realpath(program)):
        return "dprag"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)
