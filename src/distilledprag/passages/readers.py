"""Files -> blocks of text under their headings, one reader per format.

Every reader returns `[(title, paragraph)]` in reading order; a table row becomes one paragraph, its cells joined by
commas. Readers know nothing of passages or retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from distilledprag.errors import InputError

Blocks = list[tuple[str, str]]


def _text(file: Path) -> str:
    data = file.read_bytes()
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="strict")
    if b"\0" in data:
        raise InputError(f"{file} is a binary file; give a text, Markdown, HTML, PDF, Word or JSONL file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from error


def _paragraphs(text: str, title: str = "") -> Blocks:
    """Paragraphs are separated by blank lines; line breaks inside one are spaces."""
    blocks = "\n".join(line.rstrip() for line in text.splitlines()).split("\n\n")
    return [(title, " ".join(block.split())) for block in blocks if block.strip()]


def read_text(file: Path) -> Blocks:
    return _paragraphs(_text(file))


def read_markdown(file: Path) -> Blocks:
    from markdown_it import MarkdownIt

    return _html_blocks(MarkdownIt("commonmark").enable("table").render(_text(file)))


def read_html(file: Path) -> Blocks:
    return _html_blocks(_text(file))


def _html_blocks(html: str) -> Blocks:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for hidden in soup(["script", "style", "head", "nav", "template", "noscript"]):
        hidden.decompose()
    blocks: Blocks = []
    title = ""
    for element in soup.find_all(["h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "tr", "pre", "blockquote", "div"]):
        if element.name[0] == "h" and element.name[1:].isdigit():
            title = " ".join(element.get_text(" ").split())
        elif element.name == "tr":
            cells = [" ".join(cell.get_text(" ").split()) for cell in element.find_all(["td", "th"])]
            blocks.append((title, ", ".join(cell for cell in cells if cell)))
        elif not element.find(["p", "li", "tr", "pre", "div", "h1", "h2", "h3", "h4"]) and not element.find_parent(
            ["p", "li", "tr", "pre"]
        ):
            blocks.append((title, " ".join(element.get_text(" ").split())))
    if not blocks:
        blocks = _paragraphs(soup.get_text("\n"))
    return [(title, text) for title, text in blocks if text]


def read_pdf(file: Path) -> Blocks:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(file)
        if reader.is_encrypted:
            raise InputError(f"{file} is encrypted; save a copy without a password")
        pages = [page.extract_text() or "" for page in reader.pages]
    except InputError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, OSError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as PDF ({error}); it is damaged, save it again") from error
    blocks = [block for page in pages for block in _pdf_paragraphs(page)]
    if not blocks:
        raise InputError(f"{file} has no text, it may be a scan; run character recognition on it first")
    return blocks


def _pdf_paragraphs(page: str) -> Blocks:
    """PDFs mark paragraphs badly: a line that ends a sentence and is clearly short, or a blank one, ends a paragraph."""
    lines = [line.strip() for line in page.splitlines()]
    longest = max((len(line) for line in lines), default=0)
    blocks: Blocks = []
    current: list[str] = []
    for line in [*lines, ""]:
        if line:
            current.append(line)
        if current and (not line or (line.endswith((".", "!", "?")) and len(line) < 0.8 * longest)):
            blocks.append(("", " ".join(" ".join(current).split())))
            current = []
    return blocks


def read_docx(file: Path) -> Blocks:
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table

    try:
        document = docx.Document(str(file))
    except (PackageNotFoundError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read as a Word document; it is damaged or in another format") from error
    blocks: Blocks = []
    title = ""
    for part in document.iter_inner_content():
        if isinstance(part, Table):
            blocks += [(title, ", ".join(cell.text.strip() for cell in row.cells)) for row in part.rows]
        elif part.style is not None and str(part.style.name).startswith(("Heading", "Title")):
            title = part.text.strip()
        else:
            blocks.append((title, " ".join(part.text.split())))
    return [(title, text) for title, text in blocks if text.strip(" ,")]


def read_jsonl(file: Path) -> Blocks:
    blocks: Blocks = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number} is not JSON ({error.msg}); correct or remove it") from error
            blocks.append(_row(row, file, f"line {number}"))
    return blocks


def read_json(file: Path) -> Blocks:
    try:
        rows = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON ({error}); correct it") from error
    if not isinstance(rows, list):
        raise InputError(f"{file} must hold a list of objects with `text` (and `title`)")
    return [_row(row, file, f"entry {number}") for number, row in enumerate(rows, start=1)]


def _row(row: object, file: Path, place: str) -> tuple[str, str]:
    if isinstance(row, dict):
        text = next((row[key] for key in ("text", "contents", "passage") if isinstance(row.get(key), str)), None)
        if text and text.strip():
            return str(row.get("title") or ""), " ".join(text.split())
    raise InputError(f"{file}, {place}: needs a non-empty `text` (or `contents`, `passage`)")


READERS: dict[str, Callable[[Path], Blocks]] = {
    ".txt": read_text,
    ".text": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".jsonl": read_jsonl,
    ".json": read_json,
}
WHOLE_RECORDS = frozenset({".jsonl", ".json"})


def readable_files(folder: Path) -> Iterator[Path]:
    """The folder's readable files, in alphabetical order; hidden ones and unknown formats are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix.lower() in READERS:
            yield path
