"""Questions about a passage by templates, without any LLM: one of its names, numbers or dates is left out of its sentence.

    "The deposit is $2,680."  ->  What belongs in the place of ____ in this sentence: The deposit is ____.   /   $2,680

For measuring what an adapter gives away (`dprag audit`), and for PRAG where nobody has written questions about its documents.
"""

from __future__ import annotations

import re

from distilledprag.text import sentences

BLANK = "____"
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}},?)?(?: \d{{4}})?"
_NUMBER = r"[$€£]?\d(?:[\d,.]*\d)?%?"
_NAME = r"[A-Z][\w'’-]*(?:(?: (?:of|the|de|von|van|del|la))* [A-Z][\w'’-]*)*"
_FACT = re.compile(rf"(?<![\w$€£])(?:{_DATE}|{_NUMBER}|{_NAME})(?!\w)")
WORD = re.compile(r"[\w'’-][\w,.'’-]*\w|\w")
_NO_NAME = frozenset(
    "A An And As At But By For From He Her His However I If In It Its No Not On Or She So That The Their Then There These They "
    "This Those To Under Was We When Where Which While Who With You".split()
)


def facts(text: str) -> list[tuple[str, str]]:
    """(sentence, fact): the names, numbers and dates of a text, in order. A sentence's first word counts as no name by itself."""
    found = []
    for sentence in sentences(text):
        for match in _FACT.finditer(sentence):
            words = match.group()
            first, _, rest = words.partition(" ")
            begin = match.start()
            if first in _NO_NAME or (begin == 0 and not rest and words[0].isalpha()):
                words, begin = rest, begin + len(first) + 1
            if words and (len(words) > 1 or words.isdigit()):
                found.append((sentence, words))
    return found


def templated_questions(text: str, most: int = 5) -> list[tuple[str, str]]:
    """At most `most` (question, answer) pairs about a passage, spread over its facts; fewer where it has fewer.

    A fact that stands in its sentence twice, or was asked for before, is passed over.
    """
    usable: dict[str, str] = {}
    for sentence, fact in facts(text):
        if sentence.count(fact) == 1 and len(sentence.split()) > 3:
            usable.setdefault(fact, sentence)
    names = list(usable)
    if len(names) > most:
        step = len(names) / most
        names = [names[int((place + 0.5) * step)] for place in range(most)]
    return [
        (f"What belongs in the place of {BLANK} in this sentence: {usable[fact].replace(fact, BLANK)}", fact) for fact in names
    ]


def telling_words(text: str) -> list[str]:
    """The single words of a text's names, and its numbers: what one would least like to give away. In order, each once."""
    found = [word for _, fact in facts(text) for word in WORD.findall(fact) if not word.islower()]
    return list(dict.fromkeys(found))
