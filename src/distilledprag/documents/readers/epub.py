"""Electronic books (.epub) -> blocks: their pages in reading order, each read as HTML, and on demand by OCR what stands
in their pictures."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from distilledprag.documents.passages import Block, ReadDocument
from distilledprag.documents.readers.html import decode_html, html_blocks
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.packages import Package
from distilledprag.documents.readers.pictures import Pictures, Text
from distilledprag.errors import DocumentError


def read_epub(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """ocr: reads pictures. Raises DocumentError for a damaged book and one with copy protection."""
    package = Package(file, "an EPUB book")
    roots = package.xml("META-INF/container.xml").xpath("//*[local-name()='rootfile']/@full-path")
    if not roots:
        raise DocumentError(f"{file} cannot be read as an EPUB book (it names no contents); download it again")
    book = package.xml(roots[0])
    folder = posixpath.dirname(roots[0])
    items = {item.get("id"): item for item in book.xpath("//*[local-name()='manifest']/*[local-name()='item']")}
    order = [items[name] for name in book.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref") if name in items]
    pages = [posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or ""))) for item in order]
    if locked := _locked(package) & set(pages):
        raise DocumentError(f"{file} is copy-protected ({len(locked)} of its pages are encrypted); use a copy without protection")
    blocks: list[Block] = []
    read = Pictures(ocr, package)
    missing = only_pictures = 0
    notes: list[str] = []
    left: set[str] = set()  # pictures that nothing describes
    for page in pages:
        if page not in package.names:
            missing += 1
            continue
        text, page_notes = decode_html(package.data(page), f"{file}, {page},")

        shown: list[str] = []

        def picture(address: str, page: str = page, shown: list[str] = shown) -> list[Text]:
            shown.append(posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(address))))
            return read.text(shown[-1]) if shown[-1] in package.names else []

        unread: set[str] = set()
        found = html_blocks(text, picture=picture if read.wanted else None, unread=unread)
        if found:
            left |= {posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(address))) for address in unread}
        elif "<im" in text and (not read.wanted or (shown and all(map(read.is_blank, shown)))):
            only_pictures += 1
        blocks += found
        notes += page_notes
    if missing:
        notes.append(f"{missing} page{'s are' if missing > 1 else ' is'} missing from the book")
    if only_pictures:
        said = ", in which OCR finds no text" if read.wanted else ""
        notes.append(f"{only_pictures} page{'s hold' if only_pictures > 1 else ' holds'} only pictures{said}")
    if not read.wanted:
        for part in left & package.names:
            read.leave(part, *read.size(part))
    return ReadDocument(tuple(blocks), tuple(dict.fromkeys(notes + read.notes())))


def _locked(package: Package) -> set[str]:
    """The parts that are encrypted; fonts may be, without harm."""
    if "META-INF/encryption.xml" not in package.names:
        return set()
    named = package.xml("META-INF/encryption.xml").xpath("//*[local-name()='CipherReference']/@URI")
    return {posixpath.normpath(unquote(name)) for name in named}
