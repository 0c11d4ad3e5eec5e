"""Which elements of an HTML page a browser would not show: `display` and `visibility` of its own style sheets and attributes.

Style sheets in other files are not fetched. `aria-hidden` hides nothing from the eye.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import soupsieve
import tinycss2
from bs4 import BeautifulSoup, Tag

_MENTIONED = re.compile("display|visibility", re.IGNORECASE)
_PRINT_ONLY = re.compile(r"\bprint\b|\bspeech\b|\b(?:min|max)-(?:width|height)\b|\bprefers-", re.IGNORECASE)
_NAMED = re.compile(r"[.#]([\w-]+)")
_NEGATED = re.compile(r":not\([^)]*\)")
_MOST_RULES = 2000

Rank = tuple[bool, int, tuple[int, int, int], int]  # important, inline, specificity, place in the page


@dataclass
class Visibility:
    """display, visibility: what the page's rules say of an element, by its identity."""

    display: dict[int, tuple[Rank, str]] = field(default_factory=dict)
    visibility: dict[int, tuple[Rank, str]] = field(default_factory=dict)

    def is_gone(self, tag: Tag) -> bool:
        """Neither the element nor anything in it is shown."""
        own = _winner(self.display.get(id(tag)), _inline(tag, "display"))
        return own == "none" if own else tag.has_attr("hidden")

    def is_visible(self, tag: Tag, inherited: bool) -> bool:
        """Whether text directly in the element is shown. inherited: whether it is in the element around it."""
        own = _winner(self.visibility.get(id(tag)), _inline(tag, "visibility"))
        return inherited if not own or own == "inherit" else own not in ("hidden", "collapse")


def visibility_of(soup: BeautifulSoup) -> Visibility:
    """The style sheets in the page, in the order of the cascade: importance, specificity, place."""
    found = Visibility()
    rules: list[tuple[str, str, str, bool]] = []
    for sheet in soup.find_all("style"):
        if _MENTIONED.search(text := sheet.get_text()) and not _PRINT_ONLY.search(str(sheet.get("media", ""))):
            rules += _rules(tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True))
    if not rules:
        return found
    names = {name for tag in soup.find_all(True) for key in ("class", "id") for name in tag.get_attribute_list(key)}
    shown_again = []
    maybe_gone = {id(tag): tag for tag in soup.find_all(hidden=True)}
    for place, (selectors, name, value, important) in enumerate(rules[:_MOST_RULES]):
        for selector in selectors.split(","):
            # A class or id that the page does not have rules most selectors out without a search.
            if not names.issuperset(_NAMED.findall(_NEGATED.sub("", selector))):
                continue
            rank = (important, 0, _specificity(selector), place)
            if name == "display" and value != "none":
                shown_again.append((selector, rank, value))
                continue
            for tag in _select(selector, soup):
                _keep(found.display if name == "display" else found.visibility, tag, rank, value)
                maybe_gone[id(tag)] = tag
    for selector, rank, value in shown_again:
        for tag in maybe_gone.values():
            if _matches(selector, tag):
                _keep(found.display, tag, rank, value)
    return found


def _keep(table: dict[int, tuple[Rank, str]], tag: Tag, rank: Rank, value: str) -> None:
    if id(tag) not in table or table[id(tag)][0] <= rank:
        table[id(tag)] = (rank, value)


def _rules(nodes: list[tinycss2.ast.Node]) -> Iterator[tuple[str, str, str, bool]]:
    """(selector, property, value, important) of every declaration that shows or hides."""
    for node in nodes:
        if node.type == "qualified-rule":
            for declaration in tinycss2.parse_blocks_contents(node.content):
                if declaration.type == "declaration" and declaration.lower_name in ("display", "visibility"):
                    value = tinycss2.serialize(declaration.value).strip().lower()
                    yield tinycss2.serialize(node.prelude), declaration.lower_name, value, declaration.important
        elif node.type == "at-rule" and node.lower_at_keyword in ("media", "supports", "layer") and node.content:
            if _PRINT_ONLY.search(tinycss2.serialize(node.prelude)):
                continue
            yield from _rules(tinycss2.parse_rule_list(node.content, skip_comments=True, skip_whitespace=True))


def _select(selector: str, soup: BeautifulSoup) -> list[Tag]:
    try:
        return soupsieve.select(selector.strip(), soup)
    except (soupsieve.SelectorSyntaxError, NotImplementedError, ValueError):
        return []  # such as `::before` and `:hover`, which say nothing about the page at rest


def _matches(selector: str, tag: Tag) -> bool:
    try:
        return soupsieve.match(selector.strip(), tag)
    except (soupsieve.SelectorSyntaxError, NotImplementedError, ValueError):
        return False


def _specificity(selector: str) -> tuple[int, int, int]:
    return (
        len(re.findall(r"#[\w-]", selector)),
        len(re.findall(r"\.[\w-]|\[|(?<!:):[a-z]", selector)),
        len(re.findall(r"(?:^|[\s>+~])[a-z]", selector)),
    )


def _inline(tag: Tag, name: str) -> tuple[Rank, str] | None:
    style = str(tag.get("style") or "")
    if not _MENTIONED.search(style):
        return None
    for node in reversed(tinycss2.parse_blocks_contents(style)):
        if node.type == "declaration" and node.lower_name == name:
            return (node.important, 1, (0, 0, 0), 0), tinycss2.serialize(node.value).strip().lower()
    return None


def _winner(sheet: tuple[Rank, str] | None, inline: tuple[Rank, str] | None) -> str:
    if sheet and inline:
        return max(sheet, inline, key=lambda ranked: ranked[0])[1]
    found = sheet or inline
    return found[1] if found else ""
