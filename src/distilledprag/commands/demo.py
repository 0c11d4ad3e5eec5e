"""`dprag demo`: ten questions over the sample documents, what left the machine for each, and the answers side by side."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from distilledprag.commands.ask import load_with_progress, shortened
from distilledprag.errors import InputError
from distilledprag.evaluation.metrics import exact_match
from distilledprag.passages import BM25Retriever
from distilledprag.pipeline import DistilledPRAG

EXAMPLES = Path(__file__).parents[3] / "examples"
WANTED = 8


def run(out: Path) -> None:
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
    for number, line in enumerate(questions.read_text().splitlines(), start=1):
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
    table.add_row("right", "", *(f"{count} of 10" for count in right.values()))
    console.print(table)
    console.print('Ask your own: [bold]dprag ask "QUESTION" --docs FILE_OR_FOLDER --compare[/bold]')
    console.print("In a browser, over HTTP and beside what is sent: [bold]dprag up[/bold] (then drop documents into the page)")
    if right["ours"] < WANTED:
        console.print(f"{right['ours']} right answers are fewer than the {WANTED} that we aim at: see the model card.")


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
