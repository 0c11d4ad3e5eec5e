"""Rows of training and evaluation data: what is no UTF-8, no JSON or no row is refused by file and line."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from distilledprag.distillation.contexts import read_rows
from distilledprag.distillation.pair_data import read_pairs
from distilledprag.errors import InputError
from distilledprag.json_lines import json_rows, text_lines

PAIRS = [{"documents": [f"Die Größe ist {n} m²."], "question": "Größe?", "answer": f"{n} m²"} for n in range(3)]
ROWS = [{"documents": [{"title": "T", "text": "Ein Café."}], "question": "Wo?", "answers": ["Café"]}]
LINES = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in PAIRS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_in_utf_8_or_with_a_byte_order_mark_is_read(tmp_path, encoding, packed):
    data, file = LINES.encode(encoding), tmp_path / ("pairs.jsonl.gz" if packed else "pairs.jsonl")
    file.write_bytes(gzip.compress(data) if packed else data)
    assert [row for _, row in json_rows(file)] == PAIRS
    assert [pair.answer for pair in read_pairs(file)] == [pair["answer"] for pair in PAIRS]


BAD = {
    "cp1252": (b"{}\n" + '{"a": "Größe"}'.encode("cp1252"), "line 2 is not UTF-8 text"),
    "utf-16 without a mark": ('{"a": "b"}'.encode("utf-16-le"), "line 1"),
    "half of utf-16": ('{"a": "b"}'.encode("utf-16")[:-1], "not UTF-16 text"),
    "no JSON": (b'{}\n\n{"a": ', "line 3 is not JSON"),
    "nested": (b"[" * 100_000, "line 1 is not JSON"),
    "half a character": (b'{"a": ["\\ud800"]}', "line 1 holds half a character"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_row_is_refused_with_file_and_line(tmp_path, kind):
    data, message = BAD[kind]
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=rf"bad\.jsonl.*{message}|bad\.jsonl, {message}"):
        list(json_rows(tmp_path / "bad.jsonl"))


def test_a_damaged_archive_and_a_folder_are_refused_by_name(tmp_path):
    packed = gzip.compress(LINES.encode() * 50)
    for name, data in {"cut.gz": packed[:-20], "changed.gz": packed[:30] + b"\0\0\0\0" + packed[34:], "no.gz": b"text"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            list(text_lines(tmp_path / name))
    with pytest.raises(InputError, match="cannot be read"):
        list(text_lines(tmp_path))


@pytest.mark.parametrize("row", [
    None, 3, [], "x", {}, {**ROWS[0], "documents": [{"text": None}]}, {**ROWS[0], "documents": ["x"]},
    {**ROWS[0], "answers": "x"}, {**ROWS[0], "question": None}, {**ROWS[0], "documents": [{"text": "a", "title": 3}]},
])  # fmt: skip
def test_a_row_of_another_form_is_refused_before_it_is_used(tmp_path, row):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row))
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        list(read_rows(file))
    with pytest.raises(InputError, match=r"rows\.jsonl, row 2"):
        list(read_pairs(file))


def test_no_exception_but_ours_comes_out_of_damaged_rows(tmp_path):
    draw, file = random.Random(0), tmp_path / "rows.jsonl"
    whole = LINES.encode() + json.dumps(ROWS[0]).encode()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data))
            data[place : place + draw.choice((0, 1, 1, 9))] = draw.choice((b"", b"\0", b"\xff", b"{", b'"', b"\\ud800"))
        file.write_bytes(bytes(data[: draw.randrange(1, len(data))]) if draw.random() < 0.2 else bytes(data))
        for read in (read_pairs, read_rows):
            try:
                list(read(file))
            except InputError as error:
                assert "rows.jsonl" in str(error)
