"""Who may use a server of ours. Keys are kept as SHA-256 hashes and compared in constant time.

A key's file has one key a line, plain or as `sha256:HEX`; blank lines and lines that begin with # do not count. A plain hash
is enough for keys that are random, and short ones are refused. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from distilledprag.errors import ConfigError

SHORTEST_KEY = 16  # characters
OPEN_OWNER = "everyone"  # who all are where no key is asked for
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")


class ApiKeys:
    """Hashes of keys; without any, everyone is one owner."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """keys: plain or as `sha256:HEX`."""
        self._hashes = [_read(key) for key in keys]

    @classmethod
    def from_file(cls, file: Path | None) -> ApiKeys:
        """Raises ConfigError for a file that cannot be read, has no key or has a short one."""
        if file is None:
            return cls()
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"the key file {file} cannot be read ({reason}); check the path") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys or not all(map(_is_long_and_plain, keys)):
            raise ConfigError(
                f"the key file {file} needs one key a line, each of at least {SHORTEST_KEY} characters without spaces, or its "
                "hash as sha256:HEX; make a key with `openssl rand -hex 24`"
            )
        return cls(keys)

    @property
    def required(self) -> bool:
        return bool(self._hashes)

    def owner(self, authorization: str) -> str | None:
        """Who sent the header `Authorization: Bearer KEY`: a name made from the key's hash, or None for nobody with a key."""
        if not self.required:
            return OPEN_OWNER
        scheme, _, key = authorization.partition(" ")
        given = _hash(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._hashes]  # all are compared, whatever matches
        if scheme.lower() != "bearer" or not any(matches):
            return None
        return hashlib.sha256(b"owner:" + given).hexdigest()[:16]


def _is_long_and_plain(key: str) -> bool:
    return len(key) >= SHORTEST_KEY and key.isascii() and key.isprintable() and " " not in key


def _read(key: str) -> bytes:
    hashed = _HASHED.fullmatch(key)
    return bytes.fromhex(hashed[1]) if hashed else _hash(key)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
