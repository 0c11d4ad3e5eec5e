"""The journal keeps every record and nothing half-written, wherever the writing stopped, and serves one run only."""

from __future__ import annotations

import json

import pytest

from distilledprag.errors import ConfigError, InputError
from distilledprag.journal import Journal, read_journal

RUN = {"recipe": {"lr": 0.1, "output": None}, "seed": 0}
A, B, C = {"key": "a", "text": "first — text\n\u2028"}, {"key": "b", "loss": 0.5}, {"key": "c", "list": [1, None]}


@pytest.fixture
def file(tmp_path):
    """A closed journal of `RUN` with the records A and B."""
    with Journal(tmp_path / "folder" / "j.jsonl", RUN) as journal:
        journal.append(A)
        journal.append(B)
    return tmp_path / "folder" / "j.jsonl"


def test_what_is_appended_is_on_the_disk_at_once(tmp_path):
    with Journal(tmp_path / "j.jsonl", RUN) as journal:
        assert json.loads((tmp_path / "j.jsonl").read_text()) == {"identity": RUN}
        journal.append(A, B)
        assert list(read_journal(tmp_path / "j.jsonl")) == [A, B]


def test_a_reopened_journal_holds_what_was_appended_and_grows(file):
    with Journal(file, RUN) as journal:
        assert len(journal) == 2 and list(journal) == [A, B]
        journal.append(C)
        assert len(journal) == 3 and list(journal) == [A, B, C]
    assert list(read_journal(file)) == [A, B, C]


@pytest.mark.parametrize("identity", [RUN, None])
def test_a_cut_at_any_byte_loses_at_most_the_line_it_is_in(tmp_path, monkeypatch, identity):
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of journals; waiting for the disk is not what is tested here
    file = tmp_path / "j.jsonl"
    with Journal(file, identity) as journal:
        journal.append(A, B)
    written = file.read_bytes()
    for length in range(len(written) + 1):
        file.write_bytes(written[:length])
        records = max(0, written[:length].count(b"\n") - (identity is not None))
        assert list(read_journal(file)) == [A, B][:records]
        with Journal(file, identity) as journal:
            assert list(journal) == [A, B][:records]
            journal.append(C)
        assert list(read_journal(file)) == [*[A, B][:records], C]


def test_a_long_half_line_is_dropped(file):
    whole = file.read_bytes()
    with file.open("ab") as raw:
        raw.write(b'{"text": "' + b"x" * 200_000)
    with Journal(file, RUN) as journal:
        assert list(journal) == [A, B]
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"nothing\n", b"[]\n", b"5\n", b"\0\0\n", b"\xff\n", b"\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_is_named_and_nothing_changed(file, damage):
    first, second, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second + damage + third)
    with pytest.raises(InputError, match="line 3 is damaged"), Journal(file, RUN):
        pass
    with pytest.raises(InputError, match="line 3 is damaged"):
        list(read_journal(file))
    assert file.read_bytes() == first + second + damage + third


def test_a_journal_of_another_run_is_refused_and_kept(file):
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="other settings or data"), Journal(file, {**RUN, "seed": 1}):
        pass
    assert file.read_bytes() == before


def test_a_journal_of_another_run_starts_anew_by_choice(file):
    with Journal(file, {"seed": 1}, other_run="restart") as journal:
        assert not len(journal) and not list(journal)
        journal.append(C)
    with Journal(file, {"seed": 1}, other_run="restart") as journal:
        assert list(journal) == [C]


@pytest.mark.parametrize("other_run", ["refuse", "restart"])
@pytest.mark.parametrize("content", [b"some notes\n", b'{"key": "a"}\n', b"\xff\xfe\n"])
def test_a_file_that_is_not_a_journal_is_never_written_to(tmp_path, content, other_run):
    (tmp_path / "j.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="not a journal"), Journal(tmp_path / "j.jsonl", RUN, other_run):
        pass
    assert (tmp_path / "j.jsonl").read_bytes() == content


def test_an_identity_is_compared_as_json(tmp_path):
    with Journal(tmp_path / "j.jsonl", {"sizes": (1, 2), "rows": {1: 3}, "data": tmp_path}):
        pass
    with Journal(tmp_path / "j.jsonl", {"rows": {"1": 3}, "sizes": [1, 2], "data": str(tmp_path)}) as journal:
        assert not len(journal)


def test_without_an_identity_every_line_is_a_record(tmp_path):
    with Journal(tmp_path / "log.jsonl") as journal:
        journal.append({"step": 1}, {"step": 2})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("identity", [RUN, None])
def test_a_log_goes_on_from_an_earlier_step(tmp_path, identity):
    with Journal(tmp_path / "log.jsonl", identity) as journal:
        journal.append(*({"step": step} for step in range(1, 6)))
    with Journal(tmp_path / "log.jsonl", identity) as journal:
        journal.drop_from(lambda record: record["step"] > 3)
        assert len(journal) == 3
        journal.append({"step": 4, "again": True})
        journal.drop_from(lambda record: record["step"] > 100)
        assert list(journal) == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_two_processes_cannot_write_one_journal(file):
    with Journal(file, RUN), pytest.raises(ConfigError, match="another run"), Journal(file, RUN):
        pass
    with Journal(file, RUN):
        pass  # free again


def test_half_a_surrogate_pair_can_be_kept(file):
    with Journal(file, RUN) as journal:
        journal.append({"text": "\ud83d"})
    assert list(read_journal(file))[-1] == {"text": "\ud83d"}
    file.read_text(encoding="utf-8")


def test_a_full_disk_leaves_the_journal_as_it_was(file, monkeypatch):
    with Journal(file, RUN) as journal:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
            patched.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
            journal.append(C)
        assert list(journal) == [A, B]
        journal.append(C)
    assert list(read_journal(file)) == [A, B, C]
