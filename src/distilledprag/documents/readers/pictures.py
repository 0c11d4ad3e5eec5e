"""Pictures within a document -> what stands in them, by OCR, so that it can be put where the picture is.

    document's reader --part, crop--> Pictures --grey map--> tesseract --rows--> paragraphs, table rows, list items

Each picture is read once, where it first stands: a logo on every slide is one. A picture costs no document: what is too many, too
large, too slow or damaged is left out and noted, and so is a picture whose words OCR doubts, which is mostly none of text. One
without words is not noted: most are photographs and logos. Without OCR they are counted, but for decoration.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections import Counter
from typing import Any

from distilledprag.documents.passages import Kind, Outline, not_read
from distilledprag.documents.readers.layout import add_pages, items_of
from distilledprag.documents.readers.ocr import LARGEST, Ocr, Recognised, UnreadPictureError, in_doubt
from distilledprag.documents.readers.packages import Package
from distilledprag.errors import DocumentError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")  # decoded here; no other program is started for a picture
SMALLEST = 12, 24  # pixels of the shorter and the longer side; smaller ones are bullets and rules
# Square inches, and inches of the shorter side, of a picture as it is shown: without OCR, smaller ones (logos, signatures, icons,
# rules) are not told.
TOLD = 2.0, 0.4
_LENGTH = re.compile(r"([\d.]{1,9})(in|cm|mm|pt|px)")
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72, "px": 1 / 96}
SMALL = 4e6  # pixels; the letters of a picture with fewer are small, and found better at twice the size
SCREEN = 96  # pixels to the inch of a picture that was made on a screen
Crop = tuple[float, float, float, float]  # shares of the picture that are not shown: left, upper, right, lower
WHOLE: Crop = (0.0, 0.0, 0.0, 0.0)
Text = tuple[str, Kind]


class Pictures:
    """Of one document. ocr: None: no picture is read."""

    def __init__(self, ocr: Ocr | None, package: Package) -> None:
        self._ocr, self._package = ocr, package
        self._seen: set[tuple[str, Crop] | tuple[bytes, Crop]] = set()
        self._tried = 0
        self._read: list[Recognised] = []
        self._unread: Counter[str] = Counter()
        self._unsure = 0
        self._blank: set[tuple[str, Crop] | tuple[bytes, Crop]] = set()  # of those seen: OCR finds no words in them
        self._left: set[str] = set()
        self._clock = self._processor = 0.0  # seconds that pictures took: by the clock, and of this process

    @property
    def wanted(self) -> bool:
        """Whether pictures are read at all."""
        return self._ocr is not None

    def text(self, part: str, crop: Crop = WHOLE) -> list[Text]:
        """What stands in a picture, in reading order; nothing of one that came before. part: its name in the package."""
        if self._ocr is None or (part, crop) in self._seen:
            return []
        self._seen.add((part, crop))
        began = time.monotonic(), time.process_time()
        try:
            return self._found(self._ocr, part, crop)
        except UnreadPictureError as error:
            self._unread[str(error)] += 1
            return []
        finally:
            self._clock += time.monotonic() - began[0]
            self._processor += time.process_time() - began[1]

    def is_blank(self, part: str, crop: Crop = WHOLE) -> bool:
        """Whether OCR looked at a picture and found no words; unknown of one that it could not read."""
        return (part, crop) in self._blank

    def size(self, part: str) -> tuple[float, float]:
        """Of a picture as browsers show it, in inches; 0 of one that is damaged or of another format."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._package.data(part)), formats=FORMATS) as picture:
                return picture.width / SCREEN, picture.height / SCREEN
        except MemoryError:
            raise
        except Exception:  # a damaged picture can break its decoder anywhere
            return 0.0, 0.0

    def leave(self, name: str, width: float, height: float) -> None:
        """Count a picture that is not read for want of OCR, each once. name: any; width, height: as shown, in inches."""
        if self._ocr is None and is_told(width, height):
            self._left.add(name)

    def notes(self) -> list[str]:
        """How many pictures were read, how sure OCR is of them, and how many were not, and why."""
        notes = [not_read(len(self._left), "picture")] if self._left else []
        if self._read:
            doubt = in_doubt(self._read)
            notes.append(f"{_pictures(len(self._read))} {'was' if len(self._read) == 1 else 'were'} read by OCR{doubt}")
        if self._unsure:
            notes.append(f"OCR is unsure of most of what it finds in {_pictures(self._unsure)}, which is left out")
        return notes + [f"{_pictures(count)} not read by OCR: {why}" for why, count in self._unread.items()]

    def _found(self, ocr: Ocr, part: str, crop: Crop) -> list[Text]:
        left = ocr.all_seconds - self._clock
        if left <= 0 or self._processor > ocr.own_seconds:
            raise UnreadPictureError(
                "those before took all the time that a file's pictures may; raise the limits `seconds`, `cpu`"
            )
        if self._tried >= ocr.pictures:
            raise UnreadPictureError(f"they are more than {ocr.pictures}; raise the limit `pictures`")
        try:
            data = self._package.data(part)
        except DocumentError as error:
            raise UnreadPictureError("the file's parts are damaged") from error
        key = (hashlib.sha256(data).digest(), crop)
        if key in self._seen:
            if key in self._blank:
                self._blank.add((part, crop))
            return []
        self._seen.add(key)
        drawn = _drawn(data, crop)
        if drawn is None:
            return []
        self._tried += 1
        found = ocr.recognise_both(*drawn, longest=left)[0]
        if not found.is_sure:
            self._unsure += 1
            return []
        if found.words:
            self._read.append(found)
        else:
            self._blank.update((key, (part, crop)))
        outline = Outline()
        add_pages(outline, [items_of(found.rows)])
        # What stands below a heading in the picture keeps it; the document's own headings go on after the picture.
        blocks = outline.finish()
        return [(f"{block.title}: {block.text}" if block.title else block.text, block.kind) for block in blocks]


def is_told(width: float, height: float) -> bool:
    """Whether a picture of this size, in inches, is more than decoration."""
    return width * height >= TOLD[0] and min(width, height) >= TOLD[1]


def inches(length: str | None) -> float:
    """A length such as `17cm`; 0 for one that is not told."""
    found = _LENGTH.fullmatch((length or "").strip())
    try:
        return float(found[1]) * _INCHES[found[2]] if found else 0.0
    except ValueError:  # such as 1.2.3
        return 0.0


def _drawn(data: bytes, crop: Crop) -> tuple[bytes, int] | None:
    """A picture as a grey map (Netpbm) and its pixels to the inch; None for one that is too small to hold text.

    Raises UnreadPictureError for one that is too large, damaged or in another format, such as EMF."""
    from PIL import Image, UnidentifiedImageError  # slow to import, and needed with OCR only

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST:
                raise UnreadPictureError(f"more than {LARGEST / 1e6:g} million pixels")
            if min(width, height) < SMALLEST[0] or max(width, height) < SMALLEST[1]:
                return None
            grey = _grey(picture)
    except (UnreadPictureError, RecursionError):
        raise
    except MemoryError:
        raise UnreadPictureError("it needs more memory; raise the limit `memory`") from None
    except Image.DecompressionBombError:
        raise UnreadPictureError(f"more than {LARGEST / 1e6:g} million pixels") from None
    except UnidentifiedImageError:
        raise UnreadPictureError(f"damaged, or none of {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged picture can break its decoder anywhere
        raise UnreadPictureError("damaged") from error
    if crop != WHOLE:
        sides = (crop[0] * width, crop[1] * height, (1 - crop[2]) * width, (1 - crop[3]) * height)
        left, upper, right, lower = (round(side) for side in sides)
        if right <= left or lower <= upper:
            return None
        grey = grey.crop((left, upper, right, lower))
    times = 2 if grey.width * grey.height < SMALL else 1
    if times > 1:
        grey = grey.resize((times * grey.width, times * grey.height), Image.Resampling.BICUBIC)
    made = io.BytesIO()
    grey.save(made, "PPM")
    return made.getvalue(), times * SCREEN


def _grey(picture: Any) -> Any:
    """The picture without colours; what is transparent shows a background that its letters stand out from."""
    from PIL import Image, ImageStat

    if picture.mode.startswith("I"):  # 16 bits a pixel, of which Pillow would make white all that is not nearly black
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
        return picture.convert("L")
    shown = picture.convert("LA")
    grey, alpha = shown.split()
    if not alpha.getbbox():
        return grey
    behind = 255 if ImageStat.Stat(grey, alpha).mean[0] < 128 else 0
    return Image.composite(grey, Image.new("L", grey.size, behind), alpha)


def _pictures(count: int) -> str:
    return f"{count} picture{'s' if count > 1 else ''}"
