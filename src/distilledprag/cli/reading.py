"""The options of every command that reads files: --limits, --ocr, --ocr-language."""

from __future__ import annotations

from dataclasses import dataclass

from distilledprag.documents.limits import Limits
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.reading import ReadingPool
from distilledprag.errors import ConfigError


@dataclass(frozen=True)
class Reading:
    """limits: `NAME=NUMBER,...`; ocr: whether scans are read; language: of the scans, None for English.

    Raises ConfigError for limits that do not exist, for a language without OCR, and where OCR is not installed.
    """

    limits: str | None = None
    ocr: bool = False
    language: str | None = None

    def __post_init__(self) -> None:
        Limits.parse(self.limits)
        if self.language is not None and not self.ocr:
            raise ConfigError(f"--ocr-language {self.language} is for scans; add --ocr")
        if self.ocr:
            Ocr(self.ocr_language or "").check()

    @property
    def ocr_language(self) -> str | None:
        """None: no scans are read."""
        return (self.language or Ocr.language) if self.ocr else None

    def pool(self) -> ReadingPool:
        """The processes that read files so."""
        return ReadingPool(Limits.parse(self.limits), ocr=self.ocr_language)

    def arguments(self) -> list[str]:
        """These options for another command."""
        named = {"--limits": self.limits, "--ocr-language": self.language}
        return [*(["--ocr"] if self.ocr else []), *(part for name, value in named.items() if value for part in (name, value))]


USUAL = Reading()
