"""The journal keeps every answered request and nothing half-written, wherever the writing stopped."""

from __future__ import annotations

import pytest

from distilledprag.errors import ConfigError, InputError
from distilledprag.synthesis import Journal
from distilledprag.synthesis.llm import Reply, Request

FIRST, SECOND = Reply("first — text\n", 3, 4, "stop"), Reply("second", None, None, "length")


@pytest.fixture
def written(tmp_path):
    """A closed journal of two entries, as bytes."""
    with Journal(tmp_path / "whole.jsonl") as journal:
        journal.add("a", "write", FIRST)
        journal.add("b", "verify_open", SECOND)
    return (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_added_is_on_the_disk_at_once(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add("a", "write", FIRST)
        assert (tmp_path / "j.jsonl").read_bytes().count(b"\n") == 1


def test_a_reopened_journal_holds_what_was_added(tmp_path, written):
    with Journal(tmp_path / "whole.jsonl") as journal:
        assert len(journal) == 2 and journal["a"] == FIRST and journal["b"] == SECOND and "c" not in journal
        assert list(journal.replies()) == [FIRST, SECOND]


def test_a_cut_at_any_byte_loses_at_most_the_line_it_is_in(tmp_path, written):
    file = tmp_path / "cut.jsonl"
    for length in range(len(written) + 1):
        file.write_bytes(written[:length])
        whole = written[:length].count(b"\n")
        with Journal(file) as journal:
            assert [key in journal for key in "ab"] == [whole > 0, whole > 1]
            journal.add("c", "write", SECOND)
        with Journal(file) as journal:
            assert len(journal) == whole + 1 and journal["c"] == SECOND


@pytest.mark.parametrize("damage", [b"nothing\n", b"[]\n", b"5\n", b'{"key": "x"}\n', b"\0\0\n", b"\xff\n"])
def test_a_damaged_line_before_the_last_is_named(tmp_path, written, damage):
    first, second = written.splitlines(keepends=True)
    (tmp_path / "j.jsonl").write_bytes(first + damage + second)
    with pytest.raises(InputError, match="line 2 is damaged"), Journal(tmp_path / "j.jsonl"):
        pass
    assert (tmp_path / "j.jsonl").read_bytes() == first + damage + second


def test_two_runs_cannot_write_one_journal(tmp_path):
    with Journal(tmp_path / "j.jsonl"), pytest.raises(ConfigError, match="another run"), Journal(tmp_path / "j.jsonl"):
        pass
    with Journal(tmp_path / "j.jsonl"):
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
