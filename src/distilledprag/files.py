"""Writing files so that a crash leaves the old content or the new one, never half of it.

For files that grow line by line see `journal.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distilledprag.errors import InputError


def sync(path: Path) -> None:
    """Flush one file's or folder's content to the disk (a folder's: the names in it)."""
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path`: temporary file in the same folder, fsync, rename. Parent folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_section(page: Path, name: str, text: str) -> None:
    """Put `text` between the line `<!-- name -->` of a Markdown page and the next `<!-- end -->`; all else of the page stays.

    Raises InputError for a page without these lines.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not begin or not end:
        raise InputError(f"{page} has no lines `<!-- {name} -->` and `<!-- end -->`; add them where the text belongs")
    write_atomically(page, f"{before}{begin}{text}\n{end}{after}")


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends well it takes the place of `folder`.

    An existing `folder` is moved aside first and removed only after the new one stands.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    aside = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        temporary.chmod(0o755)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(temporary, folder)
        sync(folder.parent)
    except BaseException:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(folder: str | Path) -> None:
    """Put right what a `replace_folder` that was killed left: an old folder moved aside returns, unfinished ones go."""
    folder = Path(folder)
    left = sorted(folder.parent.glob(f".{folder.name}.*"))
    for aside in left:
        if aside.suffix == ".old" and not folder.exists():
            os.replace(aside, folder)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
