"""HTML and Markdown -> blocks. Markdown is rendered to HTML first, so that both are read the same way."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString, Tag
from bs4.dammit import EncodingDetector

from distilledprag.documents.passages import Block, Kind, Outline, clean
from distilledprag.documents.readers.inline import fraction, lowered, raised, root
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.documents.readers.tables import Cell, add_table
from distilledprag.documents.readers.visibility import Visibility, visibility_of
from distilledprag.encodings import decode

_SKIPPED = frozenset("head script style nav template noscript canvas iframe object audio video button annotation".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer form "
    "header hgroup hr html legend li main menu ol option p pre section summary table tbody td tfoot th thead tr ul".split()
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_NOT_FILLED_IN = frozenset("hidden password submit button reset image file".split())
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
    return ReadDocument(tuple(html_blocks(parser.render(text), outline)), notes)


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
    return ReadDocument(tuple(html_blocks(text)), notes)


def decode_html(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """As `decode`, by the encoding that the page declares near its beginning."""
    return decode(data, name, EncodingDetector.find_declared_encoding(data[:4096], is_html=True))


def html_blocks(html: str, outline: Outline | None = None) -> list[Block]:
    """The blocks of an HTML text, added to `outline`; a new outline begins with the page's title."""
    with warnings.catch_warnings():  # bs4 warns about short texts that look like file names, and about XHTML
        warnings.simplefilter("ignore")
        soup = BeautifulSoup(html, "lxml")
    if outline is None:
        title = soup.find("title")
        outline = Outline(title.get_text() if title and not title.find_parent("svg") else "")
    walker = _Walker(outline, visibility_of(soup))
    walker.visit(soup, "paragraph", visible=True)
    return walker.finish()


class _Walker:
    """Walks the tree in reading order, gathering inline text until a block begins or ends."""

    def __init__(self, outline: Outline, visibility: Visibility) -> None:
        self._outline = outline
        self._visibility = visibility
        self._buffer: list[str] = []
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
        elif (inline := self._inline(tag)) is not None:
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

    def _inline(self, tag: Tag) -> str | None:
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
                return f" {tag.get('alt') or ''} "
            case "svg":
                return f" {' '.join(self._text(text, True) for text in tag.find_all('text'))} "
            case "input":
                return _filled_in(tag)
            case "select":
                options = tag.find_all("option")
                chosen = [option for option in options if option.has_attr("selected")] or options[:1]
                return f" {', '.join(option.get_text() for option in chosen)} "
        return None

    def _flush(self, kind: Kind) -> None:
        """End the present block. Two line breaks in a row separate paragraphs."""
        text = "".join(self._buffer)
        self._buffer.clear()
        for part in re.split(r"\n[^\S\n]*\n", text):
            if part := clean(part):
                self._outline.add(f"{self._take_term()}: {part}" if self._term else part, kind)

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
        walker = _Walker(Outline(), self._visibility)
        walker.visit(tag, "paragraph", visible)
        return " ".join(block.text for block in walker.finish())

    def finish(self) -> list[Block]:
        self._flush("paragraph")
        return self._outline.finish()


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
