"""Files -> blocks of text under their headings, one reader per format: `READERS[suffix](file)`.

The parsers, and why these: pypdf (pure Python, tells where text stands on the page, so that paragraphs can be found),
python-docx (gives the document's parts in order), beautifulsoup4 over lxml (lxml closes the tags that HTML lets authors
leave out; python-docx brings it anyway) and markdown-it-py (CommonMark and tables; its HTML goes through the HTML reader).
They are imported when a file needs them. Readers know nothing of passages or retrieval.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distilledprag.documents.blocks import Block
from distilledprag.documents.readers.html import read_html, read_markdown
from distilledprag.documents.readers.json_records import read_json, read_jsonl
from distilledprag.documents.readers.pdf import read_pdf
from distilledprag.documents.readers.text import read_text
from distilledprag.documents.readers.word import read_docx

READERS: dict[str, Callable[[Path], list[Block]]] = {
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

__all__ = ["READERS"]
