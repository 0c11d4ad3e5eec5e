"""What a reader hands over. A reader knows nothing of limits, processes, passages or retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distilledprag.documents.passages import Block


@dataclass(frozen=True)
class ReadDocument:
    """A file's text in reading order, and what could not be read of it.

    notes: plain sentences for the user, such as "page 2 and 3 hold no text (scanned?)"; they do not repeat the file's name.
    """

    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


def not_read(count: int, what: str) -> str:
    """The note `3 charts are not read`."""
    return f"{count} {what}{'s are' if count > 1 else ' is'} not read"


def comment(author: str | None, text: str) -> str:
    """A remark beside the text: `Comment by Anna: why?`."""
    return f"Comment{f' by {author}' if author else ''}: {text}"


def listed(what: str, numbers: Sequence[int]) -> str:
    """`page 2`, `pages 2 and 3`, `pages 1, 4 to 9 and 12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(n) for run in runs for n in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return f"{what}{'s' if len(numbers) > 1 else ''} " + " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
