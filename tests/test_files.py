"""Files and folders are replaced whole or not at all."""

from __future__ import annotations

import pytest

from distilledprag.errors import InputError
from distilledprag.files import replace_folder, restore_folder, write_atomically, write_section


def test_a_file_is_written_with_its_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a" / "b.txt").read_text() == "text"
    write_atomically(tmp_path / "a" / "b.txt", b"bytes")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"bytes"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "b.txt", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "b.txt", "new")
    assert (tmp_path / "b.txt").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_a_section_of_a_page_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- end -->\nbetween\n<!-- two -->\nold\n<!-- end -->\nafter\n")
    write_section(page, "two", "| a |\n| b |")
    assert page.read_text() == (
        "before\n<!-- one -->\nold\n<!-- end -->\nbetween\n<!-- two -->\n| a |\n| b |\n<!-- end -->\nafter\n"
    )


@pytest.mark.parametrize("text", ["no marks", "<!-- one -->\nno end", "<!-- other -->\n<!-- end -->"])
def test_a_page_without_the_section_is_refused_and_stays(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(InputError, match="has no lines"):
        write_section(page, "one", "new")
    assert page.read_text() == text


def test_a_folder_is_replaced_when_the_block_ends_well(tmp_path):
    for content in ("first", "second"):
        with replace_folder(tmp_path / "f") as temporary:
            (temporary / "x").write_text(content)
    assert (tmp_path / "f" / "x").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_an_error_in_the_block_keeps_the_old_folder(tmp_path):
    with replace_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("new")
        raise RuntimeError
    assert (tmp_path / "f" / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_folder_moved_aside_by_a_killed_process_comes_back(tmp_path):
    (tmp_path / ".f.abc.old").mkdir()
    (tmp_path / ".f.abc.old" / "x").write_text("old")
    (tmp_path / ".f.abc").mkdir()
    (tmp_path / ".other.abc").mkdir()
    restore_folder(tmp_path / "f")
    assert (tmp_path / "f" / "x").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc", "f"]


def test_a_folder_that_stands_is_kept_and_what_a_killed_process_left_goes(tmp_path):
    for name in ("f", ".f.abc.old", ".f.def"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    restore_folder(tmp_path / "f")
    assert (tmp_path / "f" / "x").read_text() == "f" and [path.name for path in tmp_path.iterdir()] == ["f"]
