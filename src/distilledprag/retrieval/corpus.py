"""Corpora of one passage per line: DPR's `psgs_w100.tsv` (Karpukhin et al. 2020) and JSONL.

They are read as a stream, or one passage at its byte offset, so that a corpus of any size needs no memory.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilledprag.documents.passages import clean
from distilledprag.documents.readers.text import title_and_text
from distilledprag.errors import InputError

TSV_HEADER = ["id", "text", "title"]
_SAMPLES, _SAMPLE_BYTES = 16, 65_536


@dataclass(frozen=True)
class CorpusLine:
    """One passage of the file. offset: byte where its line begins; number: the line's, from 1."""

    title: str
    text: str
    offset: int
    number: int


class Corpus:
    """A corpus file. Raises InputError for a missing, compressed or empty file and for one of another type."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file).absolute()
        if not self.file.is_file():
            raise InputError(f"{file} {'is a folder' if self.file.is_dir() else 'does not exist'}; name a .tsv or .jsonl file")
        kind = self.file.suffix.lower()
        if kind == ".gz":
            raise InputError(f"{file} is compressed; unpack it with gunzip, since passages are read from their place in the file")
        if kind not in (".tsv", ".jsonl"):
            raise InputError(
                f"{file} is not a corpus; give {' '.join(TSV_HEADER)} in columns (.tsv) or one object per line (.jsonl)"
            )
        self.size = self.file.stat().st_size
        if not self.size:
            raise InputError(f"{file} is empty; give a corpus with at least one passage")
        self._parse = self._parse_tsv if kind == ".tsv" else self._parse_jsonl
        if kind == ".tsv":
            self._check_header()

    def fingerprint(self) -> str:
        """A checksum of the file's size and of 1 MiB spread over it: recognises another file, at once even for 13 GB."""
        digest = hashlib.blake2b(str(self.size).encode(), digest_size=16)
        with self.file.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(max(0, self.size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    def lines(self, offset: int = 0, number: int = 1) -> Iterator[CorpusLine]:
        """The passages from the line that begins at byte `offset` and is line `number`; blank lines are skipped.

        Raises InputError naming the line that is not a passage.
        """
        with self.file.open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.strip() and not (self._parse == self._parse_tsv and number == 1):
                    title, text = self._parse(line, f"{self.file}, line {number}")
                    yield CorpusLine(title, text, offset, number)
                offset += len(line)
                number += 1

    def read(self, offset: int) -> tuple[str, str]:
        """(title, text) of the passage whose line begins at byte `offset`."""
        with self.file.open("rb") as file:
            file.seek(offset)
            return self._parse(file.readline(), f"{self.file}, byte {offset}")

    def _check_header(self) -> None:
        with self.file.open("rb") as file:
            header = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
        if header != TSV_HEADER:
            raise InputError(
                f"{self.file}, line 1 is not the header {' '.join(TSV_HEADER)}, split by tabs; write it above the rows"
            )

    def _parse_tsv(self, line: bytes, place: str) -> tuple[str, str]:
        try:
            row = next(csv.reader([_decoded(line, place).rstrip("\r\n")], delimiter="\t", strict=True), [])
        except csv.Error as error:
            raise InputError(f"{place} cannot be split into columns ({error}); correct or remove it") from error
        if len(row) != len(TSV_HEADER):
            raise InputError(f"{place} has {len(row)} columns instead of {' '.join(TSV_HEADER)}; correct or remove it")
        return _checked(clean(row[2]), clean(row[1]), place)

    def _parse_jsonl(self, line: bytes, place: str) -> tuple[str, str]:
        try:
            fields = json.loads(_decoded(line, place))
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{place} is not JSON ({error}); correct or remove it") from error
        return _checked(*title_and_text(fields, place), place)


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from error


def _checked(title: str, text: str, place: str) -> tuple[str, str]:
    if not text:
        raise InputError(f"{place} has an empty text; fill it or remove the line")
    return title, text
