"""PowerPoint presentations (.pptx, .pptm) -> blocks: each slide under its title, with tables, charts, notes and comments, and on
demand by OCR what stands in pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pptx
from pptx.enum.shapes import MSO_SHAPE_TYPE

from distilledprag.documents.passages import Outline, ReadDocument
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.packages import Package, drawn_paragraphs, shown_pictures
from distilledprag.documents.readers.pictures import Crop, Pictures
from distilledprag.documents.readers.tables import Cell, add_table

_INCH = 914_400  # in English metric units


def read_slides(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """ocr: reads pictures. Raises DocumentError for a damaged file and one with a password."""
    package = Package(file, "a PowerPoint presentation")
    deck = pptx.Presentation(str(file))
    outline = Outline()
    pictures = Pictures(ocr, package)
    only_pictures: list[int] = []
    for number, slide in enumerate(deck.slides, start=1):
        title = slide.shapes.title
        outline.heading(title.text_frame.text if title is not None and title.text_frame.text.strip() else f"Slide {number}", 1)
        part = slide.part.partname.lstrip("/")
        named = package.embedded(part)
        shown: list[tuple[str, Crop]] = []
        sizes: list[tuple[str, float, float]] = []

        def add_pictures(element: Any, named: dict[str, str] = named, shown: list[tuple[str, Crop]] = shown) -> bool:
            found = [(named[name], crop) for name, crop in shown_pictures(element) if name in named]
            shown += found
            texts = [text for each in found for text in pictures.text(*each)]
            for text, kind in texts:
                outline.add(text, kind)
            return bool(texts)

        words = has_picture = False
        for shape in _shapes(slide.shapes):
            if title is not None and shape.shape_id == title.shape_id:
                words = True
                continue
            if str(shape._element.tag).endswith("}pic"):
                has_picture = has_picture or shape.shape_type == MSO_SHAPE_TYPE.PICTURE
                wide, high = (float(side or 0) / _INCH for side in (shape.width, shape.height))
                sizes += ((named.get(name, name), wide, high) for name, _ in shown_pictures(shape._element))
            words = _add_shape(outline, shape) or words
            words = add_pictures(shape._element) or words
        for background in slide._element.iter(f"{{{slide._element.nsmap['p']}}}bg"):
            words = add_pictures(background) or words
        for text in _other_parts(package, part):
            outline.add(text)
            words = True
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            for line in slide.notes_slide.notes_text_frame.text.split("\n"):
                outline.add(f"Speaker notes: {line}" if line.strip() else "")
        if has_picture and not words:
            if not pictures.wanted or (shown and all(pictures.is_blank(*each) for each in shown)):
                only_pictures.append(number)
        else:
            for size in sizes:
                pictures.leave(*size)
    notes = pictures.notes()
    if only_pictures:
        said = "OCR finds no text in them" if pictures.wanted else "text in them is not read"
        notes.append(f"only pictures on slide {', '.join(map(str, only_pictures))}; {said}")
    return ReadDocument(tuple(outline.finish()), tuple(notes))


def _shapes(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _add_shape(outline: Outline, shape: Any) -> bool:
    """Add what a shape says; whether it says anything."""
    if getattr(shape, "has_table", False):
        add_table(
            outline,
            [[_cell(cell) for cell in row.cells if not cell.is_spanned] for row in shape.table.rows],
            _head_rows(shape.table),
        )
    elif getattr(shape, "has_chart", False):
        _add_chart(outline, shape.chart)
    elif shape.has_text_frame:
        for paragraph in shape.text_frame.paragraphs:
            text = "".join(run.text for run in paragraph.runs) or paragraph.text
            outline.add(text, "item" if shape.is_placeholder else "paragraph")
        return bool(shape.text_frame.text.strip())
    else:
        described = shape._element.xpath(".//p:cNvPr/@descr")
        outline.add(" ".join(described))
        return False
    return True


def _cell(cell: Any) -> Cell:
    wide, high = (cell.span_width, cell.span_height) if cell.is_merge_origin else (1, 1)
    return Cell(cell.text, high, wide)


def _head_rows(table: Any) -> int:
    if not table.first_row or len(table.rows) < 2:
        return 0
    first = [cell for cell in table.rows[0].cells if not cell.is_spanned]
    high = max(cell.span_height if cell.is_merge_origin else 1 for cell in first)
    return min(high, len(table.rows) - 1)


def _add_chart(outline: Outline, chart: Any) -> None:
    """The chart's numbers as a table: a row per category, a column per series."""
    if chart.has_title and chart.chart_title.has_text_frame:
        outline.add(chart.chart_title.text_frame.text)
    for plot in chart.plots:
        series = list(plot.series)
        rows = [[Cell(""), *(Cell(one.name or "") for one in series)]]
        for place, category in enumerate(plot.categories):
            values = [one.values[place] if place < len(one.values) else None for one in series]
            rows.append([Cell(str(category), head=True), *(Cell("" if value is None else f"{value:g}") for value in values)])
        add_table(outline, rows, 1)


def _other_parts(package: Package, slide: str) -> Iterator[str]:
    """Text of diagrams (SmartArt) and comments, which are parts of their own."""
    for kind, part in package.related(slide):
        if kind == "diagramData":
            yield from drawn_paragraphs(package.xml(part))
        elif kind == "comments":
            for comment in package.xml(part):
                words = [node.text for node in comment.iter() if str(node.tag).endswith(("}text", "}t")) and node.text]
                yield f"Comment: {' '.join(words)}" if words else ""
