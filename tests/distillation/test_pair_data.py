"""Pair files become packed batches; unusable rows are named."""

import json

import pytest

from distilledprag.distillation.pair_data import read_pairs
from distilledprag.errors import InputError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_read_in_order(tmp_path):
    rows = [{"documents": ["a"], "question": "q", "answer": "x", "full_answer": "x.", "kind": "single"}] * 2
    assert [pair.answer for pair in read_pairs(write(tmp_path / "p.jsonl", rows))] == ["x", "x"]


@pytest.mark.parametrize("row, wrong", [({"documents": ["a"], "question": "q"}, "answer"), ({"documents": []}, "documents")])
def test_a_bad_row_is_named_with_its_line(tmp_path, row, wrong):
    good = {"documents": ["a"], "question": "q", "answer": "x"}
    with pytest.raises(InputError, match=f"row 2: {wrong}"):
        list(read_pairs(write(tmp_path / "p.jsonl", [good, row])))


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="dprag synthesize"):
        list(read_pairs(tmp_path / "none.jsonl"))


def test_broken_json_is_named_with_its_line(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"documents": ["a"], "question": "q", "answer": "x"}\n{"docu\n')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        list(read_pairs(file))
