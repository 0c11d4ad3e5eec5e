"""May the user's own words be sent? A question that repeats a document word for word is refused, or sent with a warning.

What the engine itself wrote may go back to it as history; an assistant's message that it did not write is treated like a
piece of a document. Knows nothing of prompts or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from distilledprag.gateway.failures import QuotedDocumentError
from distilledprag.gateway.guard import longest_quote
from distilledprag.gateway.guard.words import RUN
from distilledprag.gateway.vault import Vault, VaultRetriever

Policy = Literal["refuse", "warn", "allow"]
POLICIES: tuple[Policy, ...] = ("refuse", "warn", "allow")
QUOTED_WORDS = 8  # in a row; questions name things in fewer
_PART = 50  # words that are looked up at a time
_LOOKED_AT = 20  # passages of the vault that share most with a text


class QuotePolicy:
    """`words`: the shortest run of a document's words, in order, that counts as a quote in the user's own messages."""

    def __init__(self, vault: Vault, engine: str, policy: Policy = "refuse", words: int = QUOTED_WORDS) -> None:
        self._vault = vault
        self._engine = engine
        self._policy = policy
        self._words = words

    def check(self, question: str, history: Sequence[dict[str, str]]) -> list[str]:
        """Warnings for the user. Raises QuotedDocumentError by policy. The whole vault counts, not one collection."""
        if self._policy == "allow":
            return []
        warnings = []
        for number, message in enumerate([*history, {"role": "user", "content": question}], start=1):
            text, role = message["content"], message["role"]
            if not text.strip() or (role == "assistant" and self._vault.wrote_answer(self._engine, text)):
                continue
            allowed = RUN if role == "assistant" else self._words
            shared = longest_quote(text, self._similar(text))
            if shared < allowed:
                continue
            what = "the question" if number > len(history) else f"message {number}"
            said = f"{what} repeats {shared} words in a row of a document in the vault"
            if role == "assistant":
                said += ", and the engine did not write it"
            if self._policy == "refuse":
                raise QuotedDocumentError(
                    f"{said}, and would be sent as it is. Ask in your own words; or let the gateway warn only: --quotes warn"
                )
            warnings.append(f"{said}; it was sent as it is")
        return warnings

    def _similar(self, text: str) -> list[str]:
        """Texts of the vault that share most words with a part of `text`; parts overlap, so that no quote is cut in two."""
        retriever, words = VaultRetriever(self._vault.database), text.split()
        similar: dict[str, None] = {}
        for start in range(0, max(1, len(words) - self._words), _PART):
            part = " ".join(words[start : start + _PART + self._words])
            for passage, _ in retriever.retrieve(part, _LOOKED_AT):
                similar.update(dict.fromkeys((passage.text, passage.title)))
        return list(similar)
