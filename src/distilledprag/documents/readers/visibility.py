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
    place = 0
    for sheet in soup.find_all("style"):
        if not _MENTIONED.search(text := sheet.get_text()) or _PRINT_ONLY.search(str(sheet.get("media", ""))):
            continue
        for selector, name, value, important in _rules(tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True)):
            place += 1
            if place > _MOST_RULES:
                return found
            for single in selector.split(","):
                rank = (important, 0, _specificity(single), place)
                table = found.display if name == "display" else found.visibility
                for tag in _select(single, soup):
                    if id(tag) not in table or table[id(tag)][0] <= rank:
                        table[id(tag)] = (rank, value)
    return found


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
