"""Numbers as lists show them -> text: `iv`, `AA`, `3rd`, `二十一`. Forms have the names of WordprocessingML (ST_NumberFormat).

A form that is not here, and a number that its form cannot show, is written in decimal figures. Words are English.
"""

from __future__ import annotations

from collections.abc import Callable

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_RUSSIAN = "абвгдежзиклмнопрстуфхцчшщыэюя"  # Word leaves out й, ъ, ь and ё
_MOST_LETTERS = 30  # times that a letter is repeated
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"),
    (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
_HAN = "〇一二三四五六七八九"
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"
}  # fmt: skip


def numeral(number: int, form: str) -> str:
    """number: >= 0. form: such as upperRoman; none and bullet are empty. The custom form `001, 002` has as many figures."""
    if form in ("none", "bullet"):
        return ""
    first = form.split(",")[0].strip()
    if first.isascii() and first.isdigit():
        return f"{number:0{min(len(first), 9)}}"
    make = _FORMS.get(form) or (_FORMS["chineseCounting"] if form.startswith("一") else str)
    return make(number) or str(number)


def _repeated(number: int, alphabet: str) -> str:
    """a, b, ... z, aa, bb"""
    times, place = divmod(number - 1, len(alphabet))
    return alphabet[place] * (times + 1) if 0 <= times < _MOST_LETTERS else ""


def _columns(number: int) -> str:
    """a, b, ... z, aa, ab"""
    text = ""
    while number > 0:
        number, place = divmod(number - 1, len(_LATIN))
        text = _LATIN[place] + text
    return text


def _roman(number: int) -> str:
    text = ""
    if number < 4000:
        for value, letters in _ROMAN:
            times, number = divmod(number, value)
            text += letters * times
    return text


def _ordinal(number: int) -> str:
    end = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{end}"


def _cardinal_words(number: int) -> str:
    if number < 20:
        return _ONES[number].capitalize()
    tens, ones = divmod(number, 10)
    return (_TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")).capitalize() if number < 100 else ""


def _ordinal_words(number: int) -> str:
    before, dash, last = _cardinal_words(number).lower().rpartition("-")
    last = _ORDINALS.get(last, f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th" if last else "")
    return f"{before}{dash}{last}".capitalize()


def _counting(number: int) -> str:
    """Chinese and Japanese: 二十一, 一百零五."""
    if not 0 < number < 10_000:
        return ""
    text, gap = "", False
    for unit, figure in zip(("千", "百", "十", ""), f"{number:04}", strict=True):
        if figure == "0":
            gap = bool(text)
        else:
            text += ("零" if gap else "") + _HAN[int(figure)] + unit
            gap = False
    return text[1:] if 10 <= number < 20 else text


_FORMS: dict[str, Callable[[int], str]] = {
    "decimalZero": lambda number: f"{number:02}",
    "lowerLetter": lambda number: _repeated(number, _LATIN),
    "upperLetter": lambda number: _repeated(number, _LATIN.upper()),
    "russianLower": lambda number: _repeated(number, _RUSSIAN),
    "russianUpper": lambda number: _repeated(number, _RUSSIAN.upper()),
    "lowerLetters": _columns,  # as OpenDocument counts
    "upperLetters": lambda number: _columns(number).upper(),
    "lowerRoman": _roman,
    "upperRoman": lambda number: _roman(number).upper(),
    "ordinal": _ordinal,
    "cardinalText": _cardinal_words,
    "ordinalText": _ordinal_words,
    "numberInDash": lambda number: f"- {number} -",
    "decimalEnclosedParen": lambda number: f"({number})",
    "decimalEnclosedFullstop": lambda number: f"{number}.",
    "decimalEnclosedCircle": lambda number: chr(0x245F + number) if 0 < number <= 20 else "",
    "hex": lambda number: f"{number:X}",
    "ideographDigital": lambda number: "".join(_HAN[int(figure)] for figure in str(number)),
    **dict.fromkeys(("chineseCounting", "chineseCountingThousand", "taiwaneseCounting", "taiwaneseCountingThousand"), _counting),
    "japaneseCounting": _counting,
}
