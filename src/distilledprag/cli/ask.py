"""`dprag ask`: answer a question over documents, or over a document store, in this process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from distilledprag.base.prepared import prepared_record
from distilledprag.cli.store import BY_WORDS, Search, Stored
from distilledprag.documents.loading import Loaded, load_documents, printable
from distilledprag.documents.reading import USUAL, Reading
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import InputError
from distilledprag.retrieval import Retriever, usual_k
from distilledprag.retrieval.bm25 import check_request, size_of
from distilledprag.words import titled

if TYPE_CHECKING:
    from distilledprag.pipeline import Answer, DistilledPRAG


def load_with_progress(paths: list[Path], console: Console, files: Reading) -> Loaded:
    """Load files as `files` says, in processes of their own; the status line counts them.

    Says which files could not be read, and what of others could not. Raises InputError when none could be read.
    """
    with console.status("reading documents") as status, files.pool() as reading:
        count = 0

        def tell(file: Path) -> None:
            nonlocal count
            count += 1
            status.update(f"reading documents: {count} ({escape(printable(Path(file.name)))})")

        loaded = load_documents(paths, load=reading.read, on_file=tell, pictures=files.ocr)
    if not loaded.passages:
        raise InputError("; ".join(loaded.failed))
    for note in loaded.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    for reason in loaded.failed:
        console.print(f"[yellow]not read:[/yellow] {escape(reason)}", soft_wrap=True)
    return loaded


def check_base(base: str | None, generator: str | None = None) -> None:
    """Raise CheckpointError for a folder that is no prepared base, before documents are read and the model loads. A trained
    generator may belong to a base that was not prepared."""
    if base is not None and generator is None:
        prepared_record(Path(base).expanduser())


def check_all_read(loaded: Loaded) -> None:
    """Raise InputError, so that the exit code tells, when files could not be read; for the end of a command."""
    if loaded.failed:
        raise InputError(
            f"{len(loaded.failed)} of {loaded.files} files could not be read (named above), and the answer does not know them; "
            "mend or remove them and ask again"
        )


def run(
    question: str,
    documents: list[Path] | Stored,
    top_k: int | None,
    compare: bool,
    show_wire: bool,
    as_json: bool,
    base: str | None,
    generator: str | None = None,
    rows: float | None = None,
    layer: int | None = None,
    files: Reading = USUAL,
    search: Search = BY_WORDS,
    states_limit: int = 8192,
) -> None:
    """files: how documents are read; states_limit: MiB of states that are kept beside a store.

    Raises InputError for an empty question, for --rows or --top-k that cannot be, and at the end when a file could not be read;
    for a store as `Search.asked` does."""
    if not question.strip():
        raise InputError("the question is empty; write one")
    check_base(base, generator)
    say = Console(stderr=True).print
    with contextlib.ExitStack() as stack:
        loaded, store = Loaded(), None
        retriever: Retriever
        if isinstance(documents, Stored):
            store, retriever = stack.enter_context(search.asked(documents, say))
        else:
            loaded = load_with_progress(documents, Console(stderr=as_json), files)
            retriever = search.over(loaded.passages, say)
        top_k = usual_k(retriever) if top_k is None else top_k
        count = size_of(retriever)
        check_request(question, top_k, count)  # fail before the model loads
        if rows is not None and not rows > 0:
            raise InputError(f"--rows must be a share up to 1, or a number of rows; got {rows:g}")
        from distilledprag.pipeline import DistilledPRAG  # seconds: a mistake in the request is told before it

        prag = DistilledPRAG.from_pretrained(base, generator=generator, layer=layer, say=say)
        if store is not None:
            stack.enter_context(keeping_states(prag, store, states_limit))
        answer = prag.answer(question, retriever=retriever, top_k=top_k, rows=rows)
        if count is not None and len(answer.passages) == top_k < count:  # where fewer matched, a note of retrieval says so
            answer.notes.append(f"{len(answer.passages)} of {count} passages were used (--top-k {top_k})")
    if as_json:  # where nobody may look at what was printed
        answer.notes.extend(loaded.notes + [f"not read: {reason}" for reason in loaded.failed])
    others: dict[str, str] = {}
    if compare:
        others["closed_book"] = prag.answer_closed_book(question)
        others["rag"] = prag.answer_rag(question, [titled(passage.title, passage.text) for passage, _ in answer.passages])
    if as_json:
        print(json.dumps(as_record(answer) | others, ensure_ascii=False))
    else:
        show(Console(), answer, show_wire)
        for name, text in others.items():
            Console().print(f"[bold]{name.replace('_', ' ')}:[/bold] {escape(text)}")
    check_all_read(loaded)


@contextlib.contextmanager
def keeping_states(prag: DistilledPRAG, store: DocumentStore, limit: int) -> Iterator[None]:
    """Passages' states are taken from those beside the store, and new ones are kept there, as a gateway does it.

    limit: MiB; where a gateway with a larger limit has kept more, that many.
    """
    from distilledprag.generators.kept_states import KeptStates

    with contextlib.closing(KeptStates(store.reading_folder)) as found:
        held = found.kept().bytes
    prag.states.kept = KeptStates(store.reading_folder, max(limit * 2**20, held))
    try:
        yield
    finally:
        prag.states.kept.close()
        prag.states.kept = None


def as_record(answer: Answer) -> dict[str, Any]:
    """The answer as the JSON object of `--json`."""
    return {
        "answer": answer.text,
        "passages": [
            {"source": p.source, "text": p.text, "score": round(score, 4), "title": p.title} for p, score in answer.passages
        ],
        "sent": vars(answer.sent),
        "seconds": {name: round(value, 4) for name, value in answer.seconds.items()},
        "notes": answer.notes,
    }


def show(console: Console, answer: Answer, whole_wire: bool) -> None:
    """Print the answer, what it rests on, and what left this machine."""
    for passage, score in answer.passages:
        console.print(f"[dim]stays here[/dim] {escape(passage.source)} [dim]({score:.2f})[/dim] {escape(passage.text)}")
    prompt = answer.sent.prompt if whole_wire else shortened(answer.sent.prompt)
    size = f"{answer.sent.adapter_bytes:,} bytes of adapter, {answer.sent.bytes_total:,} bytes in all"
    console.print(Panel(escape(prompt), title="sent: masked prompt", subtitle=size))
    for note in answer.notes:
        console.print(f"[dim]note: {escape(note)}[/dim]")
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in answer.seconds.items())
    console.print(f"[bold green]answer:[/bold green] {escape(answer.text)}  [dim]({seconds})[/dim]")


def shortened(prompt: str, mask: str = "<|doc_mask|>") -> str:
    """The prompt with every run of masks written as its first one and a count."""
    parts: list[str] = []
    run_length = 0
    for piece in [*prompt.replace(mask, f"\0{mask}\0").split("\0"), ""]:
        if piece == mask:
            run_length += 1
            continue
        if piece == "" and run_length:
            continue
        if run_length:
            parts.append(f"{mask} x {run_length}")
            run_length = 0
        parts.append(piece)
    if run_length:
        parts.append(f"{mask} x {run_length}")
    return "".join(parts)
