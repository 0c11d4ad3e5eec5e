"""`dprag report`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from distilledprag.evaluation.report import write_report


def run(folders: list[Path], out: Path) -> None:
    for file in write_report(folders, out):
        Console().print(str(file), soft_wrap=True)
