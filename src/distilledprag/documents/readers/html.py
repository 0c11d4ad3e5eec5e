"""HTML and Markdown -> blocks. Markdown is rendered to HTML first, so that both are read the same way."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soupsieve
import tinycss2
from bs4 import BeautifulSoup, NavigableString, Tag
from bs4.dammit import EncodingDetector

from distilledprag.documents.passages import Block, Kind, Outline, ReadDocument, clean, not_read
from distilledprag.documents.readers.formulas import fraction, lowered, raised, root
from distilledprag.documents.readers.pictures import TOLD, inches, is_told
from distilledprag.documents.readers.tables import Cell, add_table
from distilledprag.encodings import decode

_MENTIONED = re.compile("display|visibility", re.IGNORECASE)
_PRINT_ONLY = re.compile(r"\bprint\b|\bspeech\b|\b(?:min|max)-(?:width|height)\b|\bprefers-", re.IGNORECASE)
_NAMED = re.compile(r"[.#]([\w-]+)")
_NEGATED = re.compile(r":not\([^)]*\)")
_MOST_RULES = 2000

ReadPicture = Callable[[str], Sequence[tuple[str, Kind]]]  # its address -> paragraphs and items
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


_SKIPPED = frozenset("head script style nav template noscript canvas iframe object audio video button annotation".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer form "
    "header hgroup hr html legend li main menu ol option p pre section summary table tbody td tfoot th thead tr ul".split()
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_NOT_FILLED_IN = frozenset("hidden password submit button reset image file".split())
_NO_DESCRIPTION = re.compile(
    r"(?:image|img|picture|photo|figure|screenshot|alt text)[\s_-]*\d{0,9}|\S+\.(?:png|jpe?g|gif|webp|svg|bmp|tiff?)",
    re.IGNORECASE,
)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"([A-Za-z_][\w .-]*):(?:[ \t]+(.*)|[ \t]*)")
_FIELD_GOES_ON = re.compile(r"[ \t]+\S.*|-[ \t].*|#.*|[ \t]*|\]|\}")
DEEPEST = 10_000  # levels of Markdown; the library's own bound of 20 would drop list items below ten levels


def read_markdown(file: Path) -> ReadDocument:
    """CommonMark with tables; a YAML front matter gives the title, and its other fields as `name: value`."""
    from markdown_it import MarkdownIt

    text, notes = decode(file.read_bytes(), str(file))
    text = text.replace("\r\n", "\n")
    outline = Outline()
    front = _FRONT_MATTER.match(text)
    if front and (fields := _fields(front.group(1))):
        text = text[front.end() :]
        outline = Outline(next((value for name, value in fields if name.lower() == "title"), ""))
        for name, value in fields:
            if name.lower() != "title":
                outline.add(f"{name}: {value}", "item")
    parser = MarkdownIt("commonmark", {"maxNesting": DEEPEST}).enable("table")
    unread: set[str] = set()
    # Markdown that describes a picture by nothing gives the empty description by which HTML marks decoration.
    html = parser.render(text).replace(' alt=""', "")
    return ReadDocument(tuple(html_blocks(html, outline, unread=unread)), notes + _unread(unread))


def _fields(front: str) -> list[tuple[str, str]]:
    """The `name: value` pairs of a front matter; none if it is just text between two rules."""
    fields: list[tuple[str, str]] = []
    for line in front.split("\n"):
        if found := _FIELD.fullmatch(line):
            fields.append((found[1], (found[2] or "").strip().strip("\"'")))
        elif not _FIELD_GOES_ON.fullmatch(line) or (line.strip() and not line.startswith("#") and not fields):
            return []
        elif fields and line.strip() and not line.startswith("#"):
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip().removeprefix('- ')}".strip())
    return [(name, value) for name, value in fields if value]


def read_html(file: Path) -> ReadDocument:
    """What a browser would show, without navigation and buttons; the page's title serves until the first heading."""
    text, notes = decode_html(file.read_bytes(), str(file))
    unread: set[str] = set()
    return ReadDocument(tuple(html_blocks(text, unread=unread)), notes + _unread(unread))


def _unread(pictures: set[str]) -> tuple[str, ...]:
    return (not_read(len(pictures), "picture"),) if pictures else ()


def decode_html(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """As `decode`, by the encoding that the page declares near its beginning."""
    return decode(data, name, EncodingDetector.find_declared_encoding(data[:4096], is_html=True))


def html_blocks(
    html: str, outline: Outline | None = None, picture: ReadPicture | None = None, unread: set[str] | None = None
) -> list[Block]:
    """The blocks of an HTML text, added to `outline`; a new outline begins with the page's title. picture: reads a picture by its
    address. unread: is given the addresses of pictures that are shown, no decoration, and not described."""
    with warnings.catch_warnings():  # bs4 warns about short texts that look like file names, and about XHTML
        warnings.simplefilter("ignore")
        soup = BeautifulSoup(html, "lxml")
    if outline is None:
        title = soup.find("title")
        outline = Outline(title.get_text() if title and not title.find_parent("svg") else "")
    walker = _Walker(outline, visibility_of(soup), picture, set() if unread is None else unread)
    walker.visit(soup, "paragraph", visible=True)
    return walker.finish()


class _Walker:
    """Walks the tree in reading order, gathering inline text until a block begins or ends."""

    def __init__(self, outline: Outline, visibility: Visibility, picture: ReadPicture | None, unread: set[str]) -> None:
        self._outline = outline
        self._visibility = visibility
        self._picture, self._unread = picture, unread
        self._buffer: list[str] = []
        self._waiting: list[tuple[str, Kind]] = []  # what stands in the pictures of the present block
        self._term = ""

    def visit(self, node: Tag, kind: Kind, visible: bool, preformatted: bool = False) -> None:
        for child in node.children:
            if isinstance(child, Tag):
                self._visit_tag(child, kind, visible, preformatted)
            elif visible and type(child) is NavigableString:  # subclasses are comments, declarations and scripts
                self._buffer.append(str(child) if preformatted else re.sub(r"\s+", " ", child))

    def _visit_tag(self, tag: Tag, kind: Kind, visible: bool, preformatted: bool) -> None:
        if tag.name in _SKIPPED or self._visibility.is_gone(tag):
            return
        visible = self._visibility.is_visible(tag, visible)
        if tag.name == "br":
            self._buffer.append("\n")
        elif (inline := self._inline(tag, visible)) is not None:
            if visible:
                self._buffer.append(inline)
        elif tag.name in _HEADINGS:
            self._flush(kind)
            self._outline.heading(self._text(tag, visible), int(tag.name[1]))
        elif tag.name == "table" and not _is_layout(tag):
            self._flush(kind)
            self._table(tag, visible)
        elif tag.name == "dt":
            self._flush(kind)
            self._term = ", ".join(filter(None, (self._term, self._text(tag, visible))))
        elif tag.name in _BLOCKS:
            self._flush(kind)
            inner: Kind = "item" if tag.name in ("li", "dd") else kind
            self.visit(tag, inner, visible, preformatted or tag.name == "pre")
            self._flush(inner)
            if tag.name == "dl" and self._term:
                self._flush("item")
                self._outline.add(self._take_term(), "item")
        else:
            self.visit(tag, kind, visible, preformatted)

    def _inline(self, tag: Tag, visible: bool) -> str | None:
        """The text of an element whose meaning is not in its text alone: raised letters, equations, pictures, form fields."""
        match tag.name:
            case "sup" | "sub":
                return (raised if tag.name == "sup" else lowered)(self._text(tag, True))
            case "msup" | "msub" | "mfrac" if len(parts := tag.find_all(recursive=False)) == 2:
                first, second = (self._text(part, True) for part in parts)
                make = {"msup": lambda a, b: a + raised(b), "msub": lambda a, b: a + lowered(b), "mfrac": fraction}[tag.name]
                return make(first, second)
            case "msqrt":
                return root("".join(self._text(part, True) for part in tag.find_all(recursive=False)))
            case "img":
                self._read_picture(tag.get("src"), visible)
                if visible and (address := tag.get("src")) and not _is_described_or_decoration(tag):
                    self._unread.add(str(address))
                return f" {tag.get('alt') or ''} "
            case "svg":
                for image in tag.find_all("image"):
                    self._read_picture(image.get("href") or image.get("xlink:href"), visible)
                return f" {' '.join(self._text(text, True) for text in tag.find_all('text'))} "
            case "input":
                return _filled_in(tag)
            case "select":
                options = tag.find_all("option")
                chosen = [option for option in options if option.has_attr("selected")] or options[:1]
                return f" {', '.join(option.get_text() for option in chosen)} "
        return None

    def _read_picture(self, address: object, visible: bool) -> None:
        if visible and self._picture is not None and isinstance(address, str):
            self._waiting += self._picture(address)

    def _flush(self, kind: Kind) -> None:
        """End the present block. What stands in its pictures follows. Two line breaks in a row separate paragraphs."""
        text = "".join(self._buffer)
        self._buffer.clear()
        for part in re.split(r"\n[^\S\n]*\n", text):
            if part := clean(part):
                self._outline.add(f"{self._take_term()}: {part}" if self._term else part, kind)
        for found, its_kind in self._waiting:
            self._outline.add(found, its_kind)
        self._waiting.clear()

    def _take_term(self) -> str:
        term, self._term = self._term.rstrip(" :"), ""
        return term

    def _table(self, table: Tag, visible: bool) -> None:
        if caption := table.find("caption"):
            self._outline.add(self._text(caption, visible))
        rows = [row for row in table.find_all("tr") if not self._visibility.is_gone(row)]
        cells = [[self._cell(cell, visible) for cell in row.find_all(["td", "th"])] for row in rows]
        head_rows = sum(1 for row in rows if row.find_parent("thead"))
        if not head_rows:
            while head_rows < len(rows) and cells[head_rows] and all(cell.head for cell in cells[head_rows]):
                head_rows += 1
        add_table(self._outline, cells, head_rows)

    def _cell(self, cell: Tag, visible: bool) -> Cell:
        text = "" if self._visibility.is_gone(cell) else self._text(cell, self._visibility.is_visible(cell, visible))
        return Cell(text, _span(cell, "rowspan"), _span(cell, "colspan"), cell.name == "th")

    def _text(self, tag: Tag, visible: bool) -> str:
        """All visible text below `tag`, on one line."""
        walker = _Walker(Outline(), self._visibility, self._picture, self._unread)
        walker.visit(tag, "paragraph", visible)
        return " ".join(block.text for block in walker.finish())

    def finish(self) -> list[Block]:
        self._flush("paragraph")
        return self._outline.finish()


def _is_described_or_decoration(picture: Tag) -> bool:
    """An empty description, a role and a small size mark decoration; a file's name and words like `image` describe nothing."""
    if picture.get("role") in ("presentation", "none") or picture.get("aria-hidden") == "true":
        return True
    wide, high = (_inches(picture, name) for name in ("width", "height"))
    if (wide and high and not is_told(wide, high)) or (0 < (wide or high) < TOLD[1]):
        return True
    return picture.has_attr("alt") and not _NO_DESCRIPTION.fullmatch(str(picture["alt"]).strip())


def _inches(picture: Tag, name: str) -> float:
    """A side of a picture, if it is told in pixels."""
    told = str(picture.get(name) or "").strip()
    return inches(told if told.endswith("px") else f"{told}px")


def _filled_in(tag: Tag) -> str:
    kind = str(tag.get("type") or "text").lower()
    if kind in ("checkbox", "radio"):
        return " ☒ " if tag.has_attr("checked") else " ☐ "
    return "" if kind in _NOT_FILLED_IN else f" {tag.get('value') or ''} "


def _span(cell: Tag, name: str) -> int:
    """How many rows or columns a cell spans; `rowspan="0"` means to the end."""
    digits = re.match(r"\s*(\d{1,5})", str(cell.get(name) or "1"))
    number = int(digits[1]) if digits else 1
    return number or (65534 if name == "rowspan" else 1)


def _is_layout(table: Tag) -> bool:
    """Whether a table only places blocks on the page: it holds a table or headings, cells of paragraphs, or one column."""
    if table.get("role") in ("presentation", "none") or table.find(["table", *_HEADINGS]):
        return True
    rows = table.find_all("tr")
    cells = [cell for row in rows for cell in row.find_all(["td", "th"])]
    if len(cells) <= len(rows):
        return True
    return table.find("th") is None and any(len(cell.find_all("p")) > 1 for cell in cells)
