"""The sentences and words of a text, by rules that are the same wherever they are used.

    sentences   in training and in use: what a question needs is chosen by the sentence
    words       of any script, wherever passages are searched: in memory, over a corpus on disk, in the store's full-text index
                and in Elasticsearch
    answers     compared by the words of the official scripts of SQuAD and HotpotQA

    text -> folded (compatibility forms, case, digits, points) -> numbers written one way -> words, identifiers also in parts

docs/retrieval.md has the rules of searching in words, tests/retrieval/test_words.py as cases.
"""

from __future__ import annotations

import itertools
import re
import string
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import regex

from distilledprag.errors import ConfigError

_STOP_WORDS = (
    "a an and are as at be by can did do does for from had has have how in is it its of on or that the their they this to "
    "was were what when where which who whom whose will with s"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

# Scripts that write no spaces between words (Hangul: between a word and its particles), and of those the ones whose single
# characters carry meaning.
_UNSPACED = "".join(rf"\p{{Script={name}}}" for name in "Han Hiragana Katakana Hangul Thai Lao Khmer Myanmar".split()) + "ー"
_RUN = regex.compile(rf"(?V1)[[{_UNSPACED}]&&[\p{{L}}\p{{M}}\p{{N}}ー]]\p{{M}}*")
_HAN = regex.compile(r"\p{Script=Han}")
_LETTER = rf"(?V1)[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]"
_TOKEN = regex.compile(
    rf"(?P<joined>{_LETTER}+(?:(?:[-@.]|_+){_LETTER}+)*)|(?P<run>(?:[[{_UNSPACED}]&&[\p{{L}}\p{{N}}ー]]\p{{M}}*)+)"
)
_ASCII_TOKEN = re.compile(r"[a-z0-9]+(?:(?:[-@.]|_+)[a-z0-9]+)*")
_JOINT = re.compile(r"[-@.]|_+")
_LETTERS_OR_DIGITS = re.compile(r"[0-9]+|[^0-9]+")
_MOST_RUNS = 4  # of letters and of digits in an identifier that is taken apart; longer ones are hashes

_RAISED = regex.compile(r"(?<=\p{Nd})(?=\p{No})")  # 10² is not 102, 1½ not 11/2
_DROPPED = regex.compile(  # invisible characters, the tatweel, and the points that Hebrew and Arabic mostly leave out
    r"(?V1)[\p{Default_Ignorable_Code_Point}\u0640[\p{Mn}&&[\u0591-\u05c7\u064b-\u065f\u0670\u06d6-\u06ed]]]+"
)
_DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
_ACCENT = regex.compile(r"(?<=[\p{Script=Latin}\p{Script=Greek}])\p{Mn}+")
_ONE_FORM = str.maketrans(
    {
        **dict.fromkeys("İı", "i"),  # so that Istanbul, İSTANBUL and ıssız are found in any case
        **dict.fromkeys("‐‑‒–—―−־", "-"),
        **dict.fromkeys("’ʼ", "'"),
        **dict.fromkeys("آأإٱ", "ا"),
        **dict.fromkeys("ىیې", "ي"),
        "ک": "ك", "ة": "ه", "ё": "е", "٫": ".", "٬": ",", "№": " ",
    }
)  # fmt: skip

_HAS_DIGIT = re.compile("[0-9]")
# 62,000  62.000  62'000  1,00,000, with or without decimals; and 62 000, which may also be two numbers.
_DECIMALS = r"(?P<decimals>[.,]\d+)?(?!\d|[.,']\d)"
_GROUPED = re.compile(
    rf"(?<![\d.,'])(?P<whole>\d{{1,3}}(?:(?:,\d{{3}})+|(?:\.\d{{3}})+|(?:'\d{{3}})+)|\d{{1,2}}(?:,\d\d)+,\d{{3}}){_DECIMALS}"
)
_SPACED = re.compile(r"(?<![\w.,'-])(?<!\d )\d{1,3}(?: \d{3})+(?!\w|[.,'-]\d| \d)")
_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d+)(?!\d|[.,]\d)")


# ---- options of a language


def stemmed_languages() -> tuple[str, ...]:
    """Raises ConfigError when the library is not installed."""
    return tuple(_snowball().algorithms())


def _snowball() -> Any:
    try:
        import snowballstemmer
    except ImportError as error:
        raise ConfigError("stemming needs snowballstemmer: pip install 'distilledprag[retrieval]'") from error
    return snowballstemmer


def _lists() -> dict[str, tuple[str, ...]]:
    """Stop words by the upper-case name of their language."""
    try:
        import bm25s.stopwords
    except ImportError as error:
        raise ConfigError("lists of stop words need bm25s: pip install 'distilledprag[retrieval]'") from error
    return {
        name.removeprefix("STOPWORDS_"): value for name, value in vars(bm25s.stopwords).items() if name.startswith("STOPWORDS_")
    }


@lru_cache
def _stop_words(language: str) -> frozenset[str]:
    if language == "english":
        return STOP_WORDS
    if not language:
        return frozenset()
    lists = _lists()
    if language.upper() not in lists:
        raise ConfigError(f"there is no list of stop words for {language!r}; leave it out, and no words are left out")
    return frozenset(form for word in lists[language.upper()] for form in words_of(word, WordRule(stop_words="")))


_STEMMING = threading.Lock()  # a stemmer keeps its state in itself


@lru_cache(maxsize=64)
def _stemmer(language: str) -> Any:
    return _snowball().stemmer(language)


@lru_cache(maxsize=200_000)
def _stemmed(word: str, language: str) -> str:
    if any(character.isdigit() for character in word):
        return word
    with _STEMMING:
        return str(_stemmer(language).stemWord(word))


VERSION = 2  # of these rules; an index with words of another version is made again


@dataclass(frozen=True)
class WordRule:
    """Options of a language. stem: the name of a Snowball stemmer, "" for none; stop_words: English is left out by default.

    Raises ConfigError for a language without a stemmer or a list of stop words.
    """

    stem: str = ""
    stop_words: str = "english"

    def __post_init__(self) -> None:
        if self.stem and self.stem not in stemmed_languages():
            raise ConfigError(f"there is no stemmer for {self.stem!r}; choose from {', '.join(stemmed_languages())}")
        _stop_words(self.stop_words)

    @classmethod
    def of_language(cls, language: str) -> WordRule:
        """Stems, and the stop words of the language where there is a list of them; "" is the default rule."""
        name = language.lower()
        if not name:
            return cls()
        return cls(name, name if name == "english" or name.upper() in _lists() else "")

    @classmethod
    def parse(cls, description: str) -> WordRule:
        """What `describe` wrote, of this version or another one."""
        _, stem, stop_words = description.split("/")
        return cls(stem, stop_words)

    def describe(self) -> str:
        """The rule as a store or an index keeps it; where the description is another one, words were cut in another way."""
        return f"{VERSION}/{self.stem}/{self.stop_words}"


PLAIN = WordRule()


def words_of(text: str, rule: WordRule = PLAIN) -> list[str]:
    """Words, folded, in reading order, without stop words.

    Identifiers (K-4821, INV_2023_0042, desk@nexmere.com) count whole, whatever joins them, and in their parts; words with
    accents as they are and without them; scripts without spaces as pairs of neighbouring characters.
    """
    text = _numbers(folded(text))
    found: list[str] = []
    if text.isascii():  # the same rules, five times as fast
        for token in _ASCII_TOKEN.findall(text):
            if token.isalpha():
                found.append(token)
            else:
                found += _with_parts(token)
    else:
        for match in _TOKEN.finditer(text):
            found += _pieces(match["run"]) if match["run"] else _with_parts(match["joined"])
    stops = _stop_words(rule.stop_words)
    kept = [word for word in found if word not in stops]
    return [_stemmed(word, rule.stem) for word in kept] if rule.stem else kept


def folded(text: str) -> str:
    """The text in one case and one form: NFKC, case folding, ASCII digits, without optional marks."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", _RAISED.sub(" ", text).translate(_ONE_FORM))
    text = _DROPPED.sub("", unicodedata.normalize("NFKC", text.casefold()).translate(_ONE_FORM))
    return _DIGIT.sub(lambda match: str(unicodedata.digit(match[0])), text)


def _numbers(text: str) -> str:
    """The text with every number written one way: 62000 and 3.5, where it says 62,000 and 3,5."""
    if not _HAS_DIGIT.search(text):
        return text
    text = _GROUPED.sub(_ungrouped, text)
    text = _SPACED.sub(lambda match: f"{match[0].replace(' ', '')} {match[0]}", text)
    return _COMMA.sub(r"\1.\2", text)


def _ungrouped(match: Any) -> str:
    whole = "".join(character for character in match["whole"] if character.isdigit())
    decimals = (match["decimals"] or "")[1:]
    return f"{whole}.{decimals}" if decimals.strip("0") else whole


def _with_parts(token: str) -> list[str]:
    if token.isalpha():
        return [token] if token.isascii() else _forms(token)
    parts = [part for piece in _JOINT.split(token) for part in _split_digits(piece)]
    if len(parts) > 1:
        numeric = all(part.isdecimal() for part in parts)
        parts.insert(0, token if numeric else _JOINT.sub("", token))
    return parts if token.isascii() else [form for part in parts for form in _forms(part)]


def _split_digits(piece: str) -> list[str]:
    runs = _LETTERS_OR_DIGITS.findall(piece)
    return runs if len(runs) <= _MOST_RUNS else [piece]


def _forms(word: str) -> list[str]:
    """The word, and without its accents where it is Latin or Greek."""
    bare = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", word)))
    return [word] if bare == word else [word, bare]


def _pieces(run: str) -> list[str]:
    """Neighbouring characters in pairs, each with its marks; Han characters also alone, as is a run of one character."""
    characters = _RUN.findall(run)
    if len(characters) == 1:
        return characters
    return [character for character in characters if _HAN.match(character)] + [
        one + other for one, other in itertools.pairwise(characters)
    ]


# --- sentences


def titled(title: str, text: str) -> str:
    """A passage as the LLM reads it: first the title on a line of its own, unless the text begins with it."""
    title, text = title.strip(), text.strip()
    return f"{title}\n{text}" if title and not text.lower().startswith(title.lower()) else text


# Neither a run of full stops nor one of quotes is tried from each of its characters: that takes quadratic time.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s+")
_TITLES = frozenset("mr mrs ms dr prof st rev hon gen col maj capt sgt lt gov sen vs messrs mt ft e.g i.e cf".split())
# Abbreviations before a number only: "No. 4" and "3 Sept. 2021" go on, "She said no. Then" does not.
_NUMBERED = frozenset(
    "no nos art sec ch fig vol pp p para approx ca tel ext jan feb mar apr jun jul aug sep sept oct nov dec".split()
)


# "4.", "2.1.", "iv." or "(b)." at a beginning, or between items that were joined, is the number of what follows.
_LABEL = re.compile(r"(?:.*; )?\(?(?:\d{1,3}|[A-Za-z]|[ivxlcIVXLC]{2,6})\)?(?:\.\d{1,3})*\.", re.DOTALL)
_LONGEST_LABEL = 16  # characters


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text, in order, none of them empty, without the white space between them."""
    return [sentence for line in text.split("\n") for sentence in _of_line(line)]


def _of_line(text: str) -> Iterator[str]:
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        following = text[match.end() : match.end() + 1]
        sentence = text[begin : match.start() + 1]
        if not following or following.islower() or _is_abbreviation(sentence, following) or _is_label(sentence):
            continue
        yield text[begin : match.end()].strip()
        begin = match.end()
    if rest := text[begin:].strip():
        yield rest


def _is_abbreviation(sentence: str, following: str) -> bool:
    """Whether the last word of `sentence`, with its full stop, is an abbreviation, so that the sentence goes on."""
    if not sentence.endswith("."):
        return False
    word = sentence.rsplit(maxsplit=1)[-1].strip(".(\"'“‘[").lower()
    initial = len(word) == 1 and word.isalpha() and word != "i" and sentence[-2:-1].isupper()
    return initial or word in _TITLES or (word in _NUMBERED and following.isdigit())


def _is_label(sentence: str) -> bool:
    """Whether it ends with the number of an item or clause, whose words follow."""
    return _LABEL.fullmatch(sentence[-_LONGEST_LABEL:]) is not None


def sentence_spans(text: str, count: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """(sentence, begin, end) of each sentence of a passage, in tokens. count: tokens of a text."""
    spans, begin = [], 0
    for sentence in sentences(text):
        end = begin + count(sentence)
        spans.append((sentence, begin, end))
        begin = end
    return spans


# --- words of answers

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as the official scripts of SQuAD and HotpotQA compare it: lower case, no punctuation, no articles."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


class TokenScores(NamedTuple):
    """How the words of a prediction and an answer overlap, as multisets; each in 0..1."""

    f1: float
    precision: float
    recall: float


NONE_RIGHT = TokenScores(0.0, 0.0, 0.0)
ALL_RIGHT = TokenScores(1.0, 1.0, 1.0)


def token_overlap(ours: list[str], theirs: list[str]) -> TokenScores:
    """Of the words of a prediction with those of an answer; none right without a common word."""
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return NONE_RIGHT
    precision, recall = common / len(ours), common / len(theirs)
    return TokenScores(2 * precision * recall / (precision + recall), precision, recall)
