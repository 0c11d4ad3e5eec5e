"""HTML and Markdown -> blocks. Markdown is rendered to HTML first, so that both are read the same way."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString, Tag
from bs4.dammit import EncodingDetector

from distilledprag.documents.passages import Block, Kind, Outline, clean
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError

_HIDDEN = frozenset("head script style nav template noscript svg canvas iframe object audio video button select textarea".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer form "
    "header hgroup hr html legend li main menu ol p pre section summary table tbody td tfoot th thead tr ul".split()
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)---[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE)


def read_markdown(file: Path) -> ReadDocument:
    """CommonMark with tables; a YAML front matter gives only its title."""
    from markdown_it import MarkdownIt

    text, notes = decode(file.read_bytes(), str(file))
    text = text.replace("\r\n", "\n")
    title = ""
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        if found := _FRONT_TITLE.search(front.group(1)):
            title = found.group(1)
    return _blocks(MarkdownIt("commonmark").enable("table").render(text), title, file, notes)


def read_html(file: Path) -> ReadDocument:
    """What a browser would show, without navigation and controls; the page's title serves until the first heading."""
    data = file.read_bytes()
    text, notes = decode(data, str(file), EncodingDetector.find_declared_encoding(data[:4096], is_html=True))
    return _blocks(text, None, file, notes)


def _blocks(html: str, title: str | None, file: Path, notes: tuple[str, ...]) -> ReadDocument:
    with warnings.catch_warnings():  # bs4 warns about short texts that look like file names, and about XHTML
        warnings.simplefilter("ignore")
        soup = BeautifulSoup(html, "lxml")
    if title is None:
        title = soup.title.get_text() if soup.title else ""
    walker = _Walker(title)
    try:
        walker.visit(soup, "paragraph")
    except RecursionError as error:
        raise DocumentError(f"{file} nests its elements too deeply; save a simpler copy, or its text") from error
    return ReadDocument(tuple(walker.finish()), notes)


class _Walker:
    """Walks the tree in reading order, gathering inline text until a block begins or ends."""

    def __init__(self, title: str = "") -> None:
        self._outline = Outline(title)
        self._buffer: list[str] = []
        self._term = ""

    def visit(self, node: Tag, kind: Kind, preformatted: bool = False) -> None:
        for child in node.children:
            if isinstance(child, Tag):
                self._visit_tag(child, kind, preformatted)
            elif type(child) is NavigableString:  # subclasses are comments, declarations and scripts
                self._buffer.append(str(child) if preformatted else re.sub(r"\s+", " ", child))

    def _visit_tag(self, tag: Tag, kind: Kind, preformatted: bool) -> None:
        if tag.name in _HIDDEN or tag.has_attr("hidden"):
            return
        if tag.name == "br":
            self._buffer.append("\n")
        elif tag.name in _HEADINGS:
            self._flush(kind)
            self._outline.heading(_text(tag), int(tag.name[1]))
        elif tag.name == "table" and not _is_layout(tag):
            self._flush(kind)
            self._table(tag)
        elif tag.name == "dt":
            self._flush(kind)
            self._term = ", ".join(filter(None, (self._term, _text(tag))))
        elif tag.name in _BLOCKS:
            self._flush(kind)
            inner: Kind = "item" if tag.name in ("li", "dd") else kind
            self.visit(tag, inner, preformatted or tag.name == "pre")
            self._flush(inner)
            if tag.name == "dl" and self._term:
                self._flush("item")
                self._outline.add(self._take_term(), "item")
        else:
            self.visit(tag, kind, preformatted)

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

    def _table(self, table: Tag) -> None:
        if caption := table.find("caption"):
            self._outline.add(_text(caption))
        rows = table.find_all("tr")
        cells = [[_text(cell) for cell in row.find_all(["td", "th"])] for row in rows]
        header = bool(rows) and (
            rows[0].find_parent("thead") is not None or (rows[0].find("th") is not None and rows[0].find("td") is None)
        )
        self._outline.add_table(cells, header)

    def finish(self) -> list[Block]:
        self._flush("paragraph")
        return self._outline.finish()


def _text(tag: Tag) -> str:
    """All visible text below `tag`, on one line."""
    walker = _Walker()
    walker.visit(tag, "paragraph")
    return " ".join(block.text for block in walker.finish())


def _is_layout(table: Tag) -> bool:
    """Whether a table only places blocks on the page: it holds a table or headings, cells of paragraphs, or one column."""
    if table.find(["table", *_HEADINGS]):
        return True
    rows = table.find_all("tr")
    cells = [cell for row in rows for cell in row.find_all(["td", "th"])]
    return len(cells) <= len(rows) or any(len(cell.find_all("p")) > 1 for cell in cells)
