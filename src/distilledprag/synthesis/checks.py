"""Whether a pair is fit for training: each reason for rejection is a name and a sentence for the report.

The word lists are English; in other languages those checks let everything pass. Knows nothing about LLMs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distilledprag.evaluation.metrics import normalise, token_f1
from distilledprag.synthesis.parsing import QuestionAnswer
from distilledprag.synthesis.sources import Document

REASONS = {
    "unreadable_reply": "the reply held no question-answer pair (its beginning stands under found)",
    "malformed_pair": "the pair had fields that are no text (it stands under found)",
    "empty_question": "there was no question",
    "empty_answer": "there was no answer, or it said that there is none",
    "about_the_document": "the question speaks of the document instead of what the document is about",
    "needs_title": "only somebody who sees the document or its title understands what the question is about",
    "duplicate": "the same question was asked before",
    "beyond_maximum": "the document has as many questions as were asked for",
    "wrong_with_document": "verification: with the document in context, the LLM gave another answer",
    "known_without_document": "verification: the LLM gave the answer without the document",
}

SAME_ANSWER_F1 = 0.6

_NO_ANSWER = re.compile(
    r"(unknown|n/?a|null|unanswerable|no (answer|information)\b.*|(it is )?not (mentioned|specified|stated|given|provided|known|"
    r"available|applicable|clear)\b.*|(it )?can(not|'t) be (determined|answered)\b.*|"
    r"the (documents?|passages?|texts?) (do|does)( not|n't)\b.*)\W*",
    re.IGNORECASE,
)
_DOCUMENT_WORD = r"(documents?|passages?|texts?|articles?|excerpts?|paragraphs?|contexts?)"
# "the passage of the act" and "the article that" are about the world, "in the passage?" is about the document.
_ABOUT_THE_DOCUMENT = re.compile(
    rf"\b(the|this|these|both|either|each|two|given|provided|above|following)\s+{_DOCUMENT_WORD}\b"
    rf"(?!\s+(of|that|which|by|to|for|in|on|from)\b)|"
    rf"\baccording to (the |this |these )?{_DOCUMENT_WORD}\b|\b{_DOCUMENT_WORD} ([0-9]|one|two|[AB])\b|"
    r"\b(mentioned|described|stated|given) (above|below)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(he|she|they|it|him|her|them|his|hers|their|theirs|its|this|these|"
    r"the (film|movie|book|novel|song|album|series|show|company|firm|team|club|band|group|author|writer|artist|actor|actress|"
    r"director|protagonist|character|subject|person|man|woman|player|singer|building|town|city|village|country|event|war|"
    r"battle|station|school|university|river|species|genus|family|work|two))\b",
    re.IGNORECASE,
)
_OPENERS = frozenset(
    "what which who whom whose when where why how is are was were do does did can could will would should has have had in on at "
    "by for from to of the a an if after before during since until while according between among both with without under over "
    "as name list give he she they it his her their its this these that those than i".split()
)
_QUOTED = re.compile(r"[\"“«‘][^\"”»’]{2,}[\"”»’]")
_PARENTHESES = re.compile(r"\([^)]*\)")
_SMALL_WORDS = frozenset("of the a an and in on at for to by from with de la le von van".split())


def fault(pair: QuestionAnswer, documents: Sequence[Document]) -> str | None:
    """Why the pair is unfit (a key of `REASONS`), or None."""
    if not normalise(pair.question):
        return "empty_question"
    if not re.search(r"\w", pair.answer) or _NO_ANSWER.fullmatch(pair.answer):
        return "empty_answer"
    if _ABOUT_THE_DOCUMENT.search(pair.question):
        return "about_the_document"
    if needs_title(pair.question, documents):
        return "needs_title"
    return None


def needs_title(question: str, documents: Sequence[Document]) -> bool:
    """Whether the question cannot be understood from itself and the documents' texts, which come without their titles.

    So it is when it says "he" or "the film" and names nothing, and when it names a title of which no text has a word.
    """
    if _PRONOUN.search(question) and not _names_something(question):
        return True
    asked = set(normalise(question).split())
    texts = {word for document in documents for word in normalise(document.text).split()}
    for document in documents:
        title = set(normalise(_PARENTHESES.sub("", document.title)).split()) - _SMALL_WORDS
        if title and title <= asked and not title & texts:
            return True
    return False


def _names_something(question: str) -> bool:
    """Whether the question has a capitalised word that is not just its first one, or a quotation."""
    if _QUOTED.search(question):
        return True
    words = re.findall(r"\w[\w'’-]*", question)
    return any(word[0].isupper() and word.lower().removesuffix("'s") not in _OPENERS for word in words)


def same_question(question: str) -> str:
    """Two questions are the same if this is."""
    return normalise(question)


def same_answer(reply: str, answer: str) -> bool:
    """Whether a free reply gives the answer: equal or holding it after normalisation, or token F1 of at least 0.6."""
    ours, theirs = normalise(reply).split(), normalise(answer).split()
    if not theirs:  # "A" and "The" are articles to the normalisation
        return reply.strip(" .").casefold() == answer.strip(" .").casefold()
    if theirs in (["yes"], ["no"]):
        return ours[:1] == theirs
    holds = any(ours[start : start + len(theirs)] == theirs for start in range(len(ours) - len(theirs) + 1))
    return holds or token_f1(reply, answer) >= SAME_ANSWER_F1
