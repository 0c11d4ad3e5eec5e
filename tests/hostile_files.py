"""Small files made to cost much: what somebody could upload to keep a server busy. All are made here, in milliseconds."""

from __future__ import annotations

import io
import json
import zipfile
import zlib

WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>'
    '<Override PartName="/word/styles.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.styles+xml"/></Types>'
)
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'


def docx(body: str, styles: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    """A Word file of this XML."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", _TYPES)
        main = f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
        archive.writestr("_rels/.rels", _RELATIONS.format(main))
        own = f'<Relationship Id="r1" Type="{_OFFICE}/styles" Target="styles.xml"/>'
        archive.writestr("word/_rels/document.xml.rels", _RELATIONS.format(own))
        archive.writestr("word/document.xml", f"<w:document {WORD}><w:body>{body}</w:body></w:document>")
        archive.writestr("word/styles.xml", f"<w:styles {WORD}>{styles}</w:styles>")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return file.getvalue()


def many_styles(count: int = 3000) -> bytes:
    """Every paragraph has a style of its own, and looking one up among as many is slow where all are tried."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="s{n}"><w:name w:val="style {n}"/><w:basedOn w:val="s{n - 1}"/></w:style>'
        for n in range(count)
    )
    body = "".join(f'<w:p><w:pPr><w:pStyle w:val="s{n}"/></w:pPr><w:r><w:t>Line {n}</w:t></w:r></w:p>' for n in range(count))
    return docx(body, styles)


def nested_tables(depth: int = 60, rows: int = 2) -> bytes:
    """Tables within tables; every level holds the next one in each of its rows' first cells, so little XML is much work."""
    inner = "<w:p><w:r><w:t>inside</w:t></w:r></w:p>"
    for level in range(depth):
        cells = "".join(f"<w:tc><w:p><w:r><w:t>level {level} {side}</w:t></w:r></w:p></w:tc>" for side in range(rows))
        inner = f"<w:tbl><w:tr><w:tc>{inner}</w:tc>{cells}</w:tr></w:tbl><w:p/>"
    return docx(inner)


def zip_bomb(mebibytes: int = 8) -> bytes:
    """A Word file with a part of zeros: a thousandth of its size when packed."""
    return docx("<w:p><w:r><w:t>Text.</w:t></w:r></w:p>", extra={"word/media/image1.bin": bytes(mebibytes * 2**20)})


def deep_json(depth: int = 200_000) -> bytes:
    return b'[{"text": "a", "more": ' + b"[" * depth + b"]" * depth + b"}]"


def deep_html(depth: int = 50_000) -> bytes:
    return b"<html><body>" + b"<div>" * depth + b"Anna lives in Oakport."


def nested_html_tables(depth: int = 400) -> bytes:
    return b"<table><tr><td>a<td>" * depth + b"Anna lives in Oakport."


def emphasis(count: int = 60_000) -> bytes:
    """Markdown that opens emphasis, links and code and never closes them."""
    return b"*a _b [c](d " * count + b"`" * count + b"![" * count


def dots(count: int = 300_000) -> bytes:
    """Plain text of full stops, each of which might end a sentence."""
    return b"Anna lives in Oakport" + b"." * count + b"x " + b"e.g. " * count


def pdf(objects: list[bytes], root: int = 1) -> bytes:
    """A PDF of these objects, numbered from 1."""
    data = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    begin = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, root, begin)


def page_tree(levels: int = 40) -> bytes:
    """A PDF whose page tree names every level twice, so that it has 2**levels pages."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    for level in range(levels):
        kid = level + 3
        objects.append(b"<< /Type /Pages /Count %d /Kids [%d 0 R %d 0 R] >>" % (2 ** (levels - level), kid, kid))
    objects.append(b"<< /Type /Page /MediaBox [0 0 600 800] >>")
    return pdf(objects)


def long_content(operations: int = 3_000_000) -> bytes:
    """A PDF of one page whose packed content is a long row of operations."""
    packed = zlib.compress(b"BT /F1 12 Tf 50 700 Td (Anna) Tj ET\n" + b"1 0 0 1 0 0 cm\n" * operations, 9)
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
    return pdf([
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>", page,
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed), font,
    ])  # fmt: skip


def many_records(count: int = 400_000) -> bytes:
    """A list of small objects: each byte of it takes some thirty in memory."""
    return b"[" + b",".join([json.dumps({"text": "a", "n": {}}).encode()] * count) + b"]"


HOSTILE = {
    "styles.docx": many_styles,
    "tables.docx": nested_tables,
    "bomb.docx": zip_bomb,
    "deep.json": deep_json,
    "deep.html": deep_html,
    "tables.html": nested_html_tables,
    "emphasis.md": emphasis,
    "dots.txt": dots,
    "tree.pdf": page_tree,
    "content.pdf": long_content,
}
