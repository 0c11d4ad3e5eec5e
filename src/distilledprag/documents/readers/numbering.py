"""Automatic numbers of headings and list items -> the words that stand before their text, such as "4.2" or "Article IV".

Files hold the rules only; what a paragraph shows depends on all that were counted before it:

    Word: paragraph -> num -> abstractNum -> level      OpenDocument: list or heading -> list style -> level
    counters of the list, level by level -> the level's pattern -> label

Word's lists with the same abstractNum go on counting each other, except where a num starts again; each part of the file, and each
text box, counts for itself. Bullets have no label. Sources: ECMA-376 part 1, 17.9; OpenDocument 1.3 part 3, 5.3 and 16.30.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from distilledprag.documents.readers.numerals import numeral

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_OASIS = "{urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _STYLE = (f"{_OASIS}{name}:1.0}}" for name in ("text", "style"))
_LO_PATTERN = "{urn:org:documentfoundation:names:experimental:office:xmlns:loext:1.0}num-list-format"
_ODF_FORMS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman", "": "none"}
_NOT_COUNTED = {f"{_TEXT}{name}" for name in ("tracked-changes", "list-header")}
_PLACE = re.compile(r"\{(\d+)\}(\0?)")  # a full stop follows, unless the level shows nothing
_MOST_BASES = 10  # styles that build on each other
_LONGEST_PATTERN = 200  # characters


@dataclass(frozen=True)
class _Level:
    """form: a name of `numeral`, or bullet or none. pattern: `{1}.{2}`, numbers of levels from 1 on. restart: levels above
    this one (their number from 1 on) begin it anew; None: all above. legal: levels above are shown as decimals."""

    form: str = "none"
    pattern: str = ""
    start: int = 1
    restart: int | None = None
    legal: bool = False


_NO_LEVEL = _Level()
_Levels = Callable[[int], _Level]  # level from 0 on -> what it is


class _Counters:
    """What the levels of one list are up to, from 0 on. A level that begins anew is not in it."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}

    def count(self, level: int, levels: _Levels, start: int | None = None) -> str:
        """The label of the next item of a level. start: it begins anew with this number."""
        for above in range(level):
            self.at.setdefault(above, levels(above).start)
        if start is not None:
            self.at[level] = start
        else:
            self.at[level] = self.at[level] + 1 if level in self.at else levels(level).start
        for below in [one for one in self.at if one > level]:
            restart = levels(below).restart
            if restart is None or level < restart:
                del self.at[below]
        return self._label(level, levels)

    def _label(self, level: int, levels: _Levels) -> str:
        own = levels(level)
        if own.form == "bullet":
            return ""

        def shown(place: re.Match[str]) -> str:
            other = int(place[1]) - 1
            if not 0 <= other <= level:
                return ""
            form = levels(other).form
            text = numeral(self.at[other], "decimal" if own.legal and other < level and form != "none" else form)
            return text + "." if text and place[2] else text

        return _PLACE.sub(shown, own.pattern).strip()


def _value(element: Any, name: str) -> str | None:
    """`w:val` of a child; None without the child."""
    found = element.find(f"{_W}{name}")
    return None if found is None else found.get(f"{_W}val") or ""


def _number(text: str | None, otherwise: int = 0) -> int:
    """A number as files write it; larger ones than programs allow are none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else otherwise


@dataclass
class _List:
    """Word's abstractNum, or what a num has of its own. link: a style that names the list instead."""

    levels: dict[int, _Level] = field(default_factory=dict)
    of_style: dict[str, int] = field(default_factory=dict)  # paragraph style -> level
    starts: dict[int, int] = field(default_factory=dict)
    abstract: str = ""
    link: str = ""

    def add(self, element: Any) -> None:
        """element: lvl."""
        level = _number(element.get(f"{_W}ilvl"))
        form = next((form.get(f"{_W}val") for form in element.iter(f"{_W}numFmt")), "decimal")
        custom = next((form.get(f"{_W}format") for form in element.iter(f"{_W}numFmt")), None)
        legal = element.find(f"{_W}isLgl")
        restart = _value(element, "lvlRestart")
        self.levels[level] = _Level(
            (custom or "") if form == "custom" else form or "",
            re.sub(r"%([1-9])", r"{\1}", (_value(element, "lvlText") or "")[:_LONGEST_PATTERN]),
            _number(_value(element, "start")),
            None if restart is None or _number(restart) > level else _number(restart),
            legal is not None and legal.get(f"{_W}val") not in ("0", "false", "off"),
        )
        if style := _value(element, "pStyle"):
            self.of_style[style] = level


class WordNumbering:
    """The lists of a Word document. numbering, styles: the roots of these parts."""

    def __init__(self, numbering: Iterable[Any], styles: Iterable[Any]) -> None:
        self._abstract: dict[str, _List] = {}
        self._nums: dict[str, _List] = {}
        self._styles: dict[str, tuple[str, str | None, str | None]] = {}  # id -> its base, its num and level
        self._counters: dict[tuple[Any, str], _Counters] = {}  # story, abstractNum
        self._begun: set[tuple[Any, str, int]] = set()  # story, num, level
        for root in styles:
            for style in root.iter(f"{_W}style"):
                base = style.find(f"{_W}basedOn")
                own = style.find(f"{_W}pPr/{_W}numPr")
                num, level = (None, None) if own is None else (_value(own, "numId"), _value(own, "ilvl"))
                base_id = "" if base is None else base.get(f"{_W}val") or ""
                self._styles[style.get(f"{_W}styleId") or ""] = (base_id, num, level)
        for root in numbering:
            for element in root.iterchildren(f"{_W}abstractNum"):
                made = self._abstract[element.get(f"{_W}abstractNumId") or ""] = _List(link=_value(element, "numStyleLink") or "")
                for level in element.iterchildren(f"{_W}lvl"):
                    made.add(level)
            for element in root.iterchildren(f"{_W}num"):
                made = self._nums[element.get(f"{_W}numId") or ""] = _List(abstract=_value(element, "abstractNumId") or "")
                for override in element.iterchildren(f"{_W}lvlOverride"):
                    if (start := _value(override, "startOverride")) is not None:
                        made.starts[_number(override.get(f"{_W}ilvl"))] = _number(start)
                    for level in override.iterchildren(f"{_W}lvl"):
                        made.add(level)

    def place(self, paragraph: Any) -> tuple[str, int] | None:
        """The num and level of a paragraph; None if it is in no list."""
        own = paragraph.find(f"{_W}pPr/{_W}numPr")
        num, level = (None, None) if own is None else (_value(own, "numId"), _value(own, "ilvl"))
        if num is None:
            name = paragraph.find(f"{_W}pPr/{_W}pStyle")
            style = "" if name is None else name.get(f"{_W}val") or ""
            chain: list[str] = []
            while num is None and style in self._styles and len(chain) < _MOST_BASES:
                chain.append(style)
                style, num, its_level = self._styles[style]
                level = level or its_level
            if num in self._nums and own is None:
                linked = self._source(num).of_style
                level = next((str(linked[one]) for one in chain if one in linked), level)
        return (num, min(_number(level), 8)) if num in self._nums and num is not None else None

    def label(self, paragraph: Any) -> str:
        """Count a paragraph, and say what Word shows before it; nothing for bullets and outside of lists."""
        if (place := self.place(paragraph)) is None:
            return ""
        num, level = place
        own, source = self._nums[num], self._source(num)

        def levels(one: int) -> _Level:
            return own.levels.get(one) or source.levels.get(one, _NO_LEVEL)

        story = next(paragraph.iterancestors(f"{_W}txbxContent"), None)
        story = paragraph.getroottree().getroot() if story is None else story
        start = None if (story, num, level) in self._begun else own.starts.get(level)
        self._begun.add((story, num, level))
        return self._counters.setdefault((story, own.abstract), _Counters()).count(level, levels, start)

    def _source(self, num: str) -> _List:
        """The abstractNum that says what the levels are; it may be another one than that which is counted."""
        found = self._abstract.get(self._nums[num].abstract, _List())
        for _ in range(_MOST_BASES):
            other = self._styles.get(found.link, ("", None, None))[1]
            if other not in self._nums or other is None:
                break
            found = self._abstract.get(self._nums[other].abstract, _List())
        return found


@dataclass(frozen=True)
class _Open:
    """A list of OpenDocument on the way through its items. goes_on: it counts on from the one before."""

    style: str
    level: int
    counters: _Counters
    goes_on: bool


class OpenNumbering:
    """The lists of an OpenDocument text. roots: of its parts that hold styles. labels: of each paragraph that has one."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.labels: dict[Any, str] = {}
        self._styles: dict[str, dict[int, _Level]] = {}
        self._of_paragraphs: dict[str, tuple[str, str | None]] = {}  # style -> the one it builds on, its list style
        self._outline = _Open("", 0, _Counters(), goes_on=True)
        self._named: dict[str, _Counters] = {}
        self._last = self._outline
        for root in roots:
            for style in root.iter(f"{_TEXT}list-style", f"{_TEXT}outline-style"):
                name = style.get(f"{_STYLE}name") or "Outline"
                self._styles[name] = dict(map(_open_level, style))
                if style.tag == f"{_TEXT}outline-style":
                    self._outline = _Open(name, 0, self._outline.counters, goes_on=True)
            for style in root.iter(f"{_STYLE}style"):
                base = style.get(f"{_STYLE}parent-style-name") or ""
                self._of_paragraphs[style.get(f"{_STYLE}name") or ""] = (base, style.get(f"{_STYLE}list-style-name"))

    def read(self, parent: Any) -> None:
        """Count all below an element, in reading order."""
        for element in parent:
            if element.tag == f"{_TEXT}list":
                self._list(element, None)
            elif element.tag not in _NOT_COUNTED:
                if element.tag == f"{_TEXT}h" and not self._is_plain(element):
                    level = max(_number(element.get(f"{_TEXT}outline-level"), 1), 1) - 1
                    self._count(element, element, _Open(self._outline.style, level, self._outline.counters, goes_on=True))
                self.read(element)

    def _is_plain(self, heading: Any) -> bool:
        """Whether a heading's number is switched off, by itself or by its style."""
        return heading.get(f"{_TEXT}is-list-header") == "true" or self._list_style(heading) == ""

    def _list_style(self, paragraph: Any) -> str | None:
        name = paragraph.get(f"{_TEXT}style-name") or ""
        for _ in range(_MOST_BASES):
            base, found = self._of_paragraphs.get(name, ("", None))
            if found is not None or not base:
                return found
            name = base
        return None

    def _list(self, element: Any, outer: _Open | None, first: bool = True) -> None:
        """outer: the list that this one is in; first: its item holds nothing before this one."""
        style = element.get(f"{_TEXT}style-name") or (outer.style if outer else "")
        goes_on = element.get(f"{_TEXT}continue-numbering") == "true" or bool(outer and outer.goes_on and first)
        if outer is not None:
            made = _Open(style, outer.level + 1, outer.counters, goes_on)
            if not goes_on:
                for level in [level for level in made.counters.at if level >= made.level]:
                    del made.counters.at[level]
        elif style and style == self._outline.style:
            made = self._outline
        else:
            named = self._named.get(element.get(f"{_TEXT}continue-list") or "")
            old = named or (self._last.counters if goes_on and self._last.style == style else None)
            made = self._last = _Open(style, 0, old or _Counters(), old is not None)
        if name := element.get("{http://www.w3.org/XML/1998/namespace}id"):
            self._named[name] = made.counters
        for item in element:
            numbered, holds = item.tag == f"{_TEXT}list-item", False
            for child in item:
                if child.tag == f"{_TEXT}list":
                    self._list(child, made, first=not holds)
                elif numbered and not holds and child.tag in (f"{_TEXT}p", f"{_TEXT}h"):
                    self._count(child, item, made)
                    self.read(child)
                else:
                    self.read([child])
                holds = True

    def _count(self, paragraph: Any, item: Any, place: _Open) -> None:
        """item: what may say with which number it begins."""
        levels = self._styles.get(place.style) or self._styles.get(self._list_style(paragraph) or "", {})
        told = item.get(f"{_TEXT}start-value")
        label = place.counters.count(place.level, lambda one: levels.get(one, _NO_LEVEL), None if told is None else _number(told))
        if label:
            self.labels[paragraph] = label


def _open_level(element: Any) -> tuple[int, _Level]:
    """A level of a list style: a pattern, or what stands before and after so many numbers joined by full stops."""
    level = _number(element.get(f"{_TEXT}level"), 1)
    form = element.get(f"{_STYLE}num-format")
    if form is None or not str(element.tag).endswith(("-number", "outline-level-style")):
        return level - 1, _Level("bullet")
    kind = _ODF_FORMS.get(form, form)
    if kind.endswith("Letter") and element.get(f"{_STYLE}num-letter-sync") != "true":
        kind = f"{kind}s"
    if (pattern := element.get(_LO_PATTERN)) is not None:
        pattern = re.sub(r"%(\d{1,2})%", r"{\1}", pattern[:_LONGEST_PATTERN])
    else:
        first = max(level - _number(element.get(f"{_TEXT}display-levels"), 1), 0)
        numbers = "\0".join(f"{{{one}}}" for one in range(first + 1, level + 1)) if kind != "none" else ""
        pattern = (element.get(f"{_STYLE}num-prefix") or "") + numbers + (element.get(f"{_STYLE}num-suffix") or "")
    return level - 1, _Level(kind, pattern, _number(element.get(f"{_TEXT}start-value"), 1))
