"""`dprag search`: what retrieval finds in a document store, and which of it an answer would rest on. It loads no LLM, and with
--retriever bm25 nothing but the store.
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape

from distilledprag.cli.store import BY_WORDS, Search, Stored
from distilledprag.retrieval.bm25 import passages_with
from distilledprag.retrieval.selection import best_of, without_repeats

BEGINNING = 200  # characters of a passage that are shown


def run(words: str, stored: Stored, top_k: int, limit: int, as_json: bool, search: Search = BY_WORDS) -> None:
    """top_k: passages that an answer rests on, which are marked; limit: passages that are shown.

    Raises InputError for no words and for a `top_k` below 1; for the store as `Search.asked` does."""
    with search.asked(stored, Console(stderr=True).print) as (store, finder):
        best, *_ = best_of(lambda count: finder.find(words, count), top_k)
        used = {(passage, document) for passage, _, document in best}  # fused scores depend on how many were asked for
        found = [one for one in finder.find(words, limit) if one[1] > 0]
        counts = {} if search.retriever == "dense" else passages_with(store.database, words)
        once, _ = without_repeats(found, limit)
        rows: list[dict[str, Any]] = [
            {
                "rank": rank,
                "score": round(one[1], 4),
                "used": (one[0], one[2]) in used,
                "repeats": one not in once,
                "document": one[2],
                "source": one[0].source,
                "place": one[0].index,
                "title": one[0].title,
                "text": one[0].text,
            }
            for rank, one in enumerate(found, start=1)
        ]
        lengths = {row["document"]: store.document(row["document"]).passages for row in rows}
    if as_json:
        print(json.dumps({"retriever": search.retriever, "words": counts, "passages": rows}, ensure_ascii=False))
    else:
        show(Console(highlight=False, emoji=False), counts, rows, lengths)


def show(console: Console, counts: dict[str, int], rows: list[dict[str, Any]], lengths: dict[str, int]) -> None:
    """counts: of `passages_with`; lengths: passages of each document."""
    if counts:
        said = ", ".join(f"{escape(word)} ({count})" for word, count in counts.items())
        console.print(f"[dim]words, and in how many passages of the store each is:[/dim] {said}", soft_wrap=True)
    for row in rows:
        use = "[green]used[/green]" if row["used"] else "[yellow]nearly repeats a better one[/yellow]" if row["repeats"] else ""
        place = f"passage {row['place'] + 1} of {lengths[row['document']]}"
        told = [
            f"[bold]{escape(row['source'])}[/bold]",
            place,
            *([f"under {escape(repr(row['title']))}"] if row["title"] else []),
        ]
        console.print(f"{row['rank']:3}  {row['score']:.4f}  {', '.join(told)}  {use}", soft_wrap=True)
        text = row["text"]
        console.print(f"     {escape(text[:BEGINNING])}{'…' if len(text) > BEGINNING else ''}", soft_wrap=True)
    if not rows:
        console.print("no passage matches; a question like that is asked without documents")
