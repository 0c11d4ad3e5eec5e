"""Zipped XML: what .docx, .odt and .epub files are. Only the parts asked for are unpacked."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lxml import etree

from distilledprag.errors import DocumentError

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_EMBED = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}embed"
_OFFICE_SIGNATURE = b"\xd0\xcf\x11\xe0"


class Package:
    """An open package. kind: what the file should be, for messages. Raises DocumentError for what is no ZIP archive."""

    def __init__(self, file: Path, kind: str) -> None:
        self.file, self.kind = file, kind
        with file.open("rb") as stream:
            if stream.read(4) == _OFFICE_SIGNATURE:
                raise DocumentError(
                    f"{file} has a password or is in an old Office format; save it as {file.suffix} without a password"
                )
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise self._damaged(str(error)) from error
        self.names = frozenset(self._archive.namelist())

    def _damaged(self, reason: str) -> DocumentError:
        return DocumentError(
            f"{self.file} cannot be read as {self.kind} ({reason}); open and save it again as {self.file.suffix}"
        )

    def data(self, name: str) -> bytes:
        """A part's bytes. Raises DocumentError when it is missing, damaged or encrypted."""
        try:
            return self._archive.read(name)
        except Exception as error:  # zipfile, zlib and others have their own for damaged data
            raise self._damaged(f"{name}: {str(error) or type(error).__name__}") from error

    def xml(self, name: str) -> Any:
        """A part's root element. Entities are not expanded, nothing is fetched."""
        try:
            return etree.fromstring(
                self.data(name), etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
            )
        except etree.XMLSyntaxError as error:
            raise self._damaged(f"{name}: {error.msg}") from error

    def related(self, name: str) -> list[tuple[str, str]]:
        """(type, part) of each part that an Office part refers to; type: the last word of the relation's address."""
        return [(kind, target) for _, kind, target in self._relations(name)]

    def embedded(self, name: str) -> dict[str, str]:
        """The parts that an Office part refers to, by the names (`rId4`) that it gives them."""
        return {id: target for id, _, target in self._relations(name)}

    def _relations(self, name: str) -> list[tuple[str, str, str]]:
        folder, base = posixpath.split(name)
        relations = posixpath.join(folder, "_rels", f"{base}.rels")
        if relations not in self.names:
            return []
        found = []
        for relation in self.xml(relations):
            if relation.get("TargetMode") != "External" and relation.get("Target"):
                target = posixpath.normpath(posixpath.join("/", folder, unquote(relation.get("Target")))).lstrip("/")
                if target in self.names:
                    found.append((str(relation.get("Id")), str(relation.get("Type")).rpartition("/")[2], target))
        return found


def shown_pictures(root: Any) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """The pictures below an element of an Office part (DrawingML): the name that the part gives each, and the shares of its
    width and height that are cut off (left, upper, right, lower)."""
    for blip in root.iter(f"{_A}blip"):
        if name := blip.get(_EMBED):
            cut = blip.getparent().find(f"{_A}srcRect")
            shares = ["" if cut is None else cut.get(side) or "" for side in "ltrb"]
            left, upper, right, lower = (int(share) / 100_000 if share.isdigit() else 0.0 for share in shares)
            yield name, (left, upper, right, lower)


def drawn_paragraphs(root: Any) -> Iterator[str]:
    """What the text boxes and diagrams below an element say (DrawingML, the same in all Office formats)."""
    for paragraph in root.iter(f"{_A}p"):
        yield "".join(text.text or "" for text in paragraph.iter(f"{_A}t"))
