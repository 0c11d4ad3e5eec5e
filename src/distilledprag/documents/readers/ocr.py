"""Character recognition (OCR): pictures -> lines of text with their places, by the program tesseract; and the reader of pictures.

Debian's package is tesseract-ocr; a language other than English is one more, such as tesseract-ocr-deu. The program runs as a
child of the process that reads the file: it has that process's bound on memory and one of its own on processor time for each
page, and is killed with it. Nothing is written to disk.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import Outline, ReadDocument, clean, listed
from distilledprag.documents.readers.layout import FEWEST_ROWS, GAP, Line, add_pages, items_of
from distilledprag.errors import ConfigError, DocumentError

PROGRAM = "tesseract"
MISSING = "tesseract is not installed; apt install tesseract-ocr"
NOT_FOUND = 127  # the shell's exit code
DPI = 300  # of what is rendered to be recognised
LARGEST = 50e6  # pixels of a picture that is recognised; A4 at 300 to the inch has 9 million
PAGE, BLOCK = "1", "6"  # what a picture is taken for: a page, whose blocks and upper side are looked for; one block of lines
MORE = 1.05  # times as many sure words make the other one better
DOUBT = 60  # of 100: a word that the program is less sure of counts as in doubt
DESCENT = 0.2  # of a letter's size is below the baseline
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)?")
_DESCENDS = re.compile(r"[gjpqyQ,;()\[\]]")


class UnreadPictureError(Exception):
    """Why a picture was not read."""


@dataclass(frozen=True)
class Recognised:
    """rows: as in `PageText`; words: how many were found, doubtful: how many of these the program is not sure of."""

    rows: list[list[Line]]
    words: int
    doubtful: int

    @property
    def sure(self) -> int:
        """Words that it is sure of."""
        return self.words - self.doubtful

    @property
    def is_sure(self) -> bool:
        """Of at least half of the words."""
        return self.sure >= self.doubtful


@dataclass(frozen=True)
class Ocr:
    """language: tesseract's name of a language, or of several joined by `+`; seconds: of a processor, for a page (or a TIFF).

    Of pictures within a document: pictures: how many are read; all_seconds, own_seconds: for all of them together, by the clock
    and of the reading process."""

    language: str = "eng"
    seconds: float = 60.0
    pictures: int = 200
    all_seconds: float = 150.0
    own_seconds: float = 30.0

    def check(self) -> None:
        """Raise ConfigError when the program or a language is not installed."""
        names = self.language.split("+")
        if not all(map(_LANGUAGE.fullmatch, names)):
            raise ConfigError(f"--ocr-language is {self.language!r}; name languages as tesseract does, such as eng or deu+eng")
        if shutil.which(PROGRAM) is None:
            raise ConfigError(f"reading scans needs a program: {MISSING}")
        told = subprocess.run([PROGRAM, "--list-langs"], capture_output=True, text=True, errors="replace")
        known = told.stdout.split("\n")[1:]
        if missing := [name for name in names if name not in known]:
            installed = ", ".join(sorted(filter(None, known))) or "none"
            raise ConfigError(
                f"tesseract has no language {missing[0]} (installed: {installed}); "
                f"apt install tesseract-ocr-{missing[0].lower().replace('_', '-')}"
            )

    def recognise(
        self, picture: bytes | Path, dpi: int | None = None, *, longest: float = math.inf, layout: str = PAGE
    ) -> list[Recognised]:
        """What stands in a picture (its file, or its bytes), page by page if it has several. dpi: None: the picture tells;
        longest: seconds by the clock; layout: PAGE or BLOCK.

        Raises UnreadPictureError.
        """
        told, source = (picture, "stdin") if isinstance(picture, bytes) else (b"", str(picture.absolute()))
        bounded = ["sh", "-c", 'ulimit -S -t "$0" && exec "$@"', str(math.ceil(self.seconds))]
        command = [*bounded, PROGRAM, source, "stdout", "-l", self.language, *(["--dpi", str(dpi)] if dpi else [])]
        command += ["--psm", layout, "hocr"]
        environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        try:
            done = subprocess.run(
                command, input=told, capture_output=True, env=environment, timeout=None if math.isinf(longest) else longest
            )
        except subprocess.TimeoutExpired as error:
            raise UnreadPictureError("it took all the time that was left; raise the limit `seconds`") from error
        if done.returncode == NOT_FOUND:
            raise UnreadPictureError(MISSING)
        if done.returncode == -signal.SIGXCPU:
            raise UnreadPictureError(f"it took more than {self.seconds:g} seconds of a processor; raise the limit `ocr`")
        if done.returncode:
            said = clean(done.stderr.decode(errors="replace")).replace(source, "the picture")
            raise UnreadPictureError(said[-200:] or f"exit code {done.returncode}")
        from lxml import etree  # of the extra `documents`, as all that reads PDF

        root = etree.fromstring(done.stdout, etree.XMLParser(resolve_entities=False, no_network=True, recover=True))
        return [_page(page) for page in root.iterfind(".//{*}div[@class='ocr_page']")]

    def recognise_both(self, picture: bytes | Path, dpi: int | None = None, *, longest: float = math.inf) -> list[Recognised]:
        """As `recognise`, by both layouts, and of each page what is better: looking for blocks, the program passes over labels
        and columns of short figures; taking all for one block, it reads no text that is turned. Twice the time."""
        began = time.monotonic()
        pages = self.recognise(picture, dpi, longest=longest)
        left = longest - (time.monotonic() - began)
        try:
            others = self.recognise(picture, dpi, longest=max(0.0, left), layout=BLOCK)
        except UnreadPictureError:
            return pages
        return [
            other if other.sure > MORE * page.sure and other.is_sure else page for page, other in zip(pages, others, strict=True)
        ]


def read_picture(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """The text of a picture, or of each page of a TIFF. Raises DocumentError without `ocr`, and for a picture without text."""
    if ocr is None:
        raise DocumentError(f"{file} is a picture; --ocr reads its text by character recognition (OCR)")
    try:
        pages = ocr.recognise_both(file)
    except UnreadPictureError as error:
        raise DocumentError(f"{file} cannot be read by OCR: {error}") from error
    if not any(page.rows for page in pages):
        raise DocumentError(f"{file} holds no text that OCR finds; give a sharper picture, or name its --ocr-language")
    outline = Outline()
    add_pages(outline, [items_of(page.rows) for page in pages])
    return ReadDocument(tuple(outline.finish()), tuple(recognition_notes(dict(enumerate(pages, start=1)))))


def recognition_notes(pages: Mapping[int, Recognised | UnreadPictureError]) -> list[str]:
    """What to say of pages, by their numbers: which were read by OCR, how sure it is, and where it found nothing or failed."""
    notes = []
    found = {number: page for number, page in pages.items() if isinstance(page, Recognised)}
    if read := [number for number, page in found.items() if page.rows]:
        notes.append(f"{listed('page', read)} {'was' if len(read) == 1 else 'were'} read by OCR{in_doubt(found.values())}")
    if empty := [number for number, page in found.items() if not page.rows]:
        notes.append(f"{listed('page', empty)} hold{'s' if len(empty) == 1 else ''} no text that OCR finds")
    failures: dict[str, list[int]] = {}
    for number, page in pages.items():
        if isinstance(page, UnreadPictureError):
            failures.setdefault(str(page), []).append(number)
    return notes + [f"{listed('page', numbers)} not read by OCR: {why}" for why, numbers in failures.items()]


def in_doubt(found: Iterable[Recognised]) -> str:
    """` (3 of 40 words are in doubt)`, or nothing."""
    words, doubtful = (sum(counts) for counts in zip(*((one.words, one.doubtful) for one in found), strict=True))
    return f" ({doubtful} of {words} words are in doubt)" if doubtful else ""


def _page(page: Any) -> Recognised:
    """A page of hOCR."""
    said = _properties(page)
    width, height = (float(number) for number in said["bbox"][2:])
    scale = 72 / (float(said.get("scan_res", ["0"])[0]) or DPI)
    blocks, sure = [], []
    for block in page.iterfind("{*}div"):
        lines: list[list[Line]] = []
        for paragraph in block.iterfind("{*}p"):
            # The letters of a paragraph have one size; what is measured of each line differs a little.
            spans = [(span, _properties(span)) for span in paragraph.iterfind("{*}span")]
            size = scale * statistics.median([float(found["x_size"][0]) for _, found in spans] or [1.0])
            for span, found in spans:
                words = [word for word in span.iterfind("{*}span") if clean("".join(word.itertext()))]
                sure += [float(_properties(word)["x_wconf"][0]) for word in words]
                turn = round(float(found.get("textangle", ["0"])[0])) % 360
                places = [
                    [side * scale for side in _upright(_properties(each)["bbox"], turn, width, height)] for each in (span, *words)
                ]
                texts = [clean("".join(word.itertext())) for word in words]
                y = places[0][2] - float(found["baseline"][1]) * scale if "baseline" in found else _baseline(texts, places, size)
                if parts := _parts(texts, places[1:], y, size):
                    lines.append(parts)
        blocks.append(lines)
    return Recognised(_rows(blocks), len(sure), sum(one < DOUBT for one in sure))


def _properties(element: Any) -> dict[str, list[str]]:
    """`bbox 1 2 3 4; x_wconf 96` -> {"bbox": ["1", ...], ...}"""
    return {words[0]: words[1:] for part in element.get("title", "").split(";") if (words := part.split())}


def _upright(box: list[str], turn: int, width: float, height: float) -> tuple[float, float, float]:
    """Where it begins, ends, and its lower edge, y upwards, when the page is turned so that its text stands upright.

    box: left, top, right, bottom in the picture, y downwards. turn: degrees by which the text is turned to the left.
    """
    left, top, right, bottom = map(float, box)
    return {
        90: (height - bottom, height - top, width - right),
        180: (width - right, width - left, top),
        270: (top, bottom, left),
    }.get(turn, (left, right, height - bottom))


def _baseline(texts: list[str], places: list[list[float]], size: float) -> float:
    """Where tesseract does not tell the baseline, in turned text: above the lower edge if a letter reaches below it."""
    return places[0][2] + (size * DESCENT if any(map(_DESCENDS.search, texts)) else 0.0)


def _parts(texts: list[str], places: list[list[float]], y: float, size: float) -> list[Line]:
    """A line, cut where a wide gap is."""
    parts: list[Line] = []
    for text, (begin, end, _) in zip(texts, places, strict=True):
        if parts and begin - parts[-1].end <= GAP * size:
            before = parts.pop()
            text, begin = f"{before.text} {text}", before.x
        parts.append(Line(text, begin, end, y, size, bold=False))
    return parts


def _rows(blocks: list[list[list[Line]]]) -> list[list[Line]]:
    """The lines of all blocks in order; those of a block that stands beside others, line by line, join the rows of these."""
    rows: list[list[Line]] = []
    for lines in blocks:
        mates = [next((row for row in rows if _beside(row, parts)), None) for parts in lines]
        if len(lines) >= FEWEST_ROWS and None not in mates:
            for mate, parts in zip(mates, lines, strict=True):
                assert mate is not None
                mate += parts
                mate.sort(key=lambda part: part.x)
        else:
            rows += lines
    return rows


def _beside(row: list[Line], parts: list[Line]) -> bool:
    level = abs(row[0].y - parts[0].y) < 0.25 * parts[0].size
    return level and all(one.end < other.x or other.end < one.x for one in row for other in parts)
