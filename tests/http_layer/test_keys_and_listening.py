"""Keys of servers, and where a server without keys may listen."""

from __future__ import annotations

import hashlib

import pytest

from distilledprag.errors import ConfigError
from distilledprag.http.listening import address_of, bind, check_exposure
from distilledprag.http.middleware import OPEN_TENANT, ApiKeys

KEY = "a-key-of-more-than-16-characters"
OTHER = "another-key-of-16-and-more"


def test_key_files_hold_one_key_or_its_hash_a_line(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# laptop\n{KEY}\n\nsha256:{hashlib.sha256(OTHER.encode()).hexdigest()}\n")
    keys = ApiKeys.from_file(file)
    owners = {keys.tenant(f"Bearer {KEY}"), keys.tenant(f"bearer {OTHER}")}
    assert len(owners) == 2 and None not in owners and keys.tenant(f"Bearer {KEY}") in owners
    for header in ("", "Bearer wrong", KEY, f"Basic {KEY}", f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}"):
        assert keys.tenant(header) is None
    assert KEY not in repr(vars(keys)) and not any(KEY in str(owner) for owner in owners)


@pytest.mark.parametrize("content", ["", "# none\n", "short\n", "a key with spaces in it\n"])
def test_files_without_good_keys_are_refused(tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match="one key a line"):
        ApiKeys.from_file(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.from_file(tmp_path / "none")


def test_without_keys_everyone_is_one_owner():
    keys = ApiKeys.from_file(None)
    assert not keys.required and keys.tenant("") == keys.tenant("Bearer anything") == OPEN_TENANT


def test_a_server_that_others_can_reach_needs_keys():
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_exposure("a gateway", host, False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match=r"a gateway on .* --api-key-file"):
            check_exposure("a gateway", host, False)
        check_exposure("a gateway", host, True)


def test_a_port_that_is_taken_is_named():
    with bind("127.0.0.1", 0) as listener:
        assert address_of(listener).startswith("http://127.0.0.1:")
        with pytest.raises(ConfigError, match="--port"):
            bind("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(ConfigError, match="65535"):
        bind("127.0.0.1", 70000)
