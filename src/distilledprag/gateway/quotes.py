"""May the user's own words be sent? A question that repeats a document word for word is refused, or sent with a warning.

Messages are looked at together, so that a quote cut over several of them is one. What the engine itself wrote may go back to it
as history; an assistant's message that it did not write is treated like a piece of a document.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from distilledprag.documents.store import DocumentStore
from distilledprag.gateway.guard.protected import RUN, is_character, word_spans, words
from distilledprag.http.errors import RequestError
from distilledprag.retrieval.bm25 import StoreRetriever

Policy = Literal["refuse", "warn", "allow"]
POLICIES: tuple[Policy, ...] = ("refuse", "warn", "allow")
QUOTED_WORDS = 8  # in a row; questions name things in fewer
_PART = 50  # words that are looked up at a time
_LOOKED_AT = 20  # passages of the store that share most with a text
WORD, CHARACTER = 3, 2  # what each counts: where no spaces are written, words have 1.5 characters on average


class QuotedDocumentError(RequestError):
    """What the user wants to send repeats a document word for word."""

    code = "quotes_document"


class QuotePolicy:
    """`words`: the shortest run of a document's words, in order, that counts as a quote in the user's own messages."""

    def __init__(self, store: DocumentStore, engine: str, policy: Policy = "refuse", words: int = QUOTED_WORDS) -> None:
        self._store = store
        self._engine = engine
        self._policy = policy
        self._words = words

    def check(self, question: str, history: Sequence[dict[str, str]], settings: Sequence[str] = ()) -> list[str]:
        """Warnings for the user. Raises QuotedDocumentError by policy. The whole store counts, not one collection.

        settings: further texts of the user's that are sent as they are (stop texts, a schema)."""
        if self._policy == "allow":
            return []
        own: list[str] = []
        warnings: list[str] = []
        for number, message in enumerate([*history, {"role": "user", "content": question}], start=1):
            text, role = message["content"], message["role"]
            if not text.strip() or (role == "assistant" and self._store.wrote_answer(self._engine, text)):
                continue
            own.append(text)
            what = "the question" if number > len(history) else f"message {number}"
            if role == "assistant":
                self._judge(what, text, RUN, warnings, ", and the engine did not write it")
            else:
                self._judge(what, text, self._words, warnings)
        for text in settings:
            own.append(text)
            self._judge("a stop text or the schema", text, self._words, warnings)
        if len(own) > 1 and not warnings:
            self._judge("the conversation", "\n".join(own), self._words, warnings)
        return warnings

    def _judge(self, what: str, text: str, allowed: int, warnings: list[str], more: str = "") -> None:
        """Refuse, or warn, when `text` shares `allowed` words in a row, or more, with a passage of the store."""
        shared = longest_quote(text, self._similar(text))
        if shared < allowed:
            return
        said = f"{what} repeats {shared:.0f} words in a row of a document in the store{more}"
        if self._policy == "refuse":
            raise QuotedDocumentError(
                f"{said}, and would be sent as it is. Ask in your own words; or let the gateway warn only: --quotes warn"
            )
        warnings.append(f"{said}; it was sent as it is")

    def _similar(self, text: str) -> list[str]:
        """Texts of the store that share most words with a part of `text`; parts overlap, so that no quote is cut in two.

        Words are the guard's, whatever stands between them; of scripts without spaces all passages that share a few characters
        are looked at. What is searched is the text from the first to the last of them: the search cuts words in its own way.
        """
        text = unicodedata.normalize("NFKC", text)
        places = word_spans(text)
        found = [text[begin:end] for begin, end in places]
        similar: dict[str, None] = {}
        for start in range(0, max(1, len(found) - self._words), _PART):
            part = found[start : start + _PART + 2 * self._words]
            characters = "".join(word for word in part if is_character(word))
            if len(characters) < sum(map(len, part)):
                written = text[places[start][0] : places[start + len(part) - 1][1]]
                for passage, _ in StoreRetriever(self._store.database).retrieve(written, _LOOKED_AT):
                    similar.update(dict.fromkeys((passage.text, passage.title)))
            if characters:
                similar.update(dict.fromkeys(self._store.texts_with(_triples(characters))))
        return list(similar)


def _triples(characters: str) -> list[str]:
    """Every third piece of three characters: a longer quote holds one of them whole, wherever it begins."""
    return [characters[start : start + 3] for start in range(0, len(characters), 3)]


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
            if word not in places:
                ending = {}
                continue
            length = CHARACTER if is_character(word) else WORD
            ending = {place: ending.get(place - 1, 0) + length for place in places[word]}
            longest = max(longest, *ending.values())
    return longest / WORD
