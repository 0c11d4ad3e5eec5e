"""Does a text that the user wants to send repeat a document word for word? Knows nothing of policies or requests."""

from __future__ import annotations

from collections.abc import Iterable

from distilledprag.gateway.guard.words import is_character, words

WORD, CHARACTER = 3, 2  # what each counts: where no spaces are written, words have 1.5 characters on average


def longest_quote(text: str, passages: Iterable[str]) -> float:
    """The length, in words, of the longest run that `text` shares with one of `passages`; 0 when they share no word."""
    asked = words(text)
    places: dict[str, list[int]] = {}
    for place, word in enumerate(asked):
        places.setdefault(word, []).append(place)
    longest = 0
    for passage in passages:
        ending: dict[int, int] = {}  # place in `asked` -> length of the shared run that ends there
        for word in words(passage):
            length = CHARACTER if is_character(word) else WORD
            ending = {place: ending.get(place - 1, 0) + length for place in places.get(word, ())}
            longest = max(longest, *ending.values(), 0)
    return longest / WORD
