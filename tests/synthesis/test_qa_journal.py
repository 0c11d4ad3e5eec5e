"""The journal keeps every answered request and nothing half-written, wherever the writing stopped."""

from __future__ import annotations

import pytest

from distilledprag.errors import ConfigError, InputError
from distilledprag.synthesis import Replies
from distilledprag.synthesis.llm import Reply, Request

FIRST, SECOND = Reply("first — text\n", 3, 4, "stop"), Reply("second", None, None, "length")


@pytest.fixture
def written(tmp_path):
    """A closed journal of two entries, as bytes."""
    with Replies(tmp_path / "whole.jsonl") as replies:
        replies.add("a", "write", FIRST)
        replies.add("b", "verify_open", SECOND)
    return (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_added_is_on_the_disk_at_once(tmp_path):
    with Replies(tmp_path / "j.jsonl") as replies:
        replies.add("a", "write", FIRST)
        assert (tmp_path / "j.jsonl").read_bytes().count(b"\n") == 2  # the identity and the reply


def test_a_reopened_journal_holds_what_was_added(tmp_path, written):
    with Replies(tmp_path / "whole.jsonl") as replies:
        assert len(replies) == 2 and replies["a"] == FIRST and replies["b"] == SECOND and "c" not in replies
        assert list(replies) == [FIRST, SECOND]


def test_a_cut_at_any_byte_loses_at_most_the_line_it_is_in(tmp_path, monkeypatch, written):
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of journals; waiting for the disk is not what is tested here
    file = tmp_path / "cut.jsonl"
    for length in range(len(written) + 1):
        file.write_bytes(written[:length])
        whole = max(0, written[:length].count(b"\n") - 1)
        with Replies(file) as replies:
            assert [key in replies for key in "ab"] == [whole > 0, whole > 1]
            replies.add("c", "write", SECOND)
        with Replies(file) as replies:
            assert len(replies) == whole + 1 and replies["c"] == SECOND


@pytest.mark.parametrize("damage", [b"nothing\n", b"[]\n", b"5\n", b'{"key": "x"}\n', b"\0\0\n", b"\xff\n"])
def test_a_damaged_line_before_the_last_is_named(tmp_path, written, damage):
    identity, first, second = written.splitlines(keepends=True)
    (tmp_path / "j.jsonl").write_bytes(identity + first + damage + second)
    with pytest.raises(InputError, match="line 3 is damaged"), Replies(tmp_path / "j.jsonl"):
        pass
    assert (tmp_path / "j.jsonl").read_bytes() == identity + first + damage + second


def test_two_runs_cannot_write_one_journal(tmp_path):
    with Replies(tmp_path / "j.jsonl"), pytest.raises(ConfigError, match="another run"), Replies(tmp_path / "j.jsonl"):
        pass
    with Replies(tmp_path / "j.jsonl"):
        pass  # free again


def test_a_key_names_everything_that_decides_about_the_reply():
    message = [{"role": "user", "content": "hello"}]
    request = Request("write", message, 0.7, 100)
    others = [
        Request("write", [{"role": "user", "content": "hello!"}], 0.7, 100),
        Request("write", message, 0.8, 100),
        Request("write", message, 0.7, 101),
        Request("write", message, 0.7, 100, attempt=1),
    ]
    keys = {request.key("model"), request.key("other"), *(other.key("model") for other in others)}
    assert len(keys) == 6 and Request("write", list(message), 0.7, 100).key("model") in keys
