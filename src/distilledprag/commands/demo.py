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

from distilledprag.commands.ask import load_with_progress, shortened
from distilledprag.errors import DistilledPRAGError, InputError
from distilledprag.evaluation.metrics import exact_match
from distilledprag.passages import BM25Retriever
from distilledprag.pipeline import DistilledPRAG

EXAMPLES = Path(__file__).parents[3] / "examples"
WANTED = 8


def run(out: Path) -> None:
    """Raises InputError without the sample documents, DistilledPRAGError when the answers are not what they should be."""
    console = Console()
    documents, questions = EXAMPLES / "documents", EXAMPLES / "questions.jsonl"
    if not questions.exists():
        raise InputError(f"the sample documents are not at {EXAMPLES}; run the demo from a checkout of the repository")
    retriever = BM25Retriever(load_with_progress([documents], console))
    files = sorted({Path(passage.source).name for passage in retriever.passages})
    console.print(f"[bold]{len(retriever.passages)} passages[/bold] from {', '.join(files)}. They stay on this machine.\n")
    with console.status("loading the bundled model"):
        prag = DistilledPRAG.from_pretrained()
    table = Table("question", "answer wanted", "DistilledPRAG", "closed book", "plain RAG", title="Ten questions")
    right = {"ours": 0, "closed": 0, "rag": 0}
    pictured = False
    lines = questions.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        answer = prag.answer(row["question"], retriever=retriever)
        texts = [passage.text for passage, _ in answer.passages]
        made = {"ours": answer.text, "closed": prag.answer_closed_book(row["question"])}
        made["rag"] = prag.answer_rag(row["question"], texts)
        console.rule(f"{number}. {escape(row['question'])}", align="left")
        for passage, _ in answer.passages:
            console.print(f"[dim]stays here  {escape(Path(passage.source).name)}:[/dim] {escape(passage.text)}", soft_wrap=True)
        size = f"+ LoRA of {answer.sent.adapter_bytes:,} bytes"
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
        if not pictured:
            pictured = True
            _picture(prag, texts, row["question"], out, console)
    table.add_section()
    table.add_row("right", "", *(f"{count} of {len(lines)}" for count in right.values()))
    console.print(table)
    if right["ours"] < WANTED or right["closed"]:
        raise DistilledPRAGError(
            f"the demo did not work: {right['ours']} of {len(lines)} answers are right, {WANTED} are wanted, and "
            f"{right['closed']} are right without the documents, where none should be; was the bundled model changed? see its "
            "model card"
        )
    program = escape(own_command())
    console.print(f'Ask your own: [bold]{program} ask "QUESTION" --docs FILE_OR_FOLDER --compare[/bold]')
    console.print(f"In a browser, over HTTP, beside what is sent: [bold]{program} up[/bold] (then drop documents into the page)")


def own_command() -> str:
    """How this program is called from here: `dprag` where that is on the PATH, else its path, such as `.venv/bin/dprag`."""
    program, found = Path(sys.argv[0]).absolute(), shutil.which("dprag")
    if program.name != "dprag" or (found and os.path.realpath(found) == os.path.realpath(program)):
        return "dprag"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _picture(prag: DistilledPRAG, texts: list[str], question: str, out: Path, console: Console) -> None:
    """Draw which document tokens the adapter's slots read, if matplotlib is there."""
    try:
        from distilledprag.commands.picture import draw_attention
    except ImportError:
        console.print("(no picture: matplotlib is not installed; install distilledprag[plot])")
        return
    file = out / "attention.png"
    draw_attention(prag, texts, question, file)
    console.print(f"picture of what each slot of the adapter read: [bold]{file}[/bold]\n")
