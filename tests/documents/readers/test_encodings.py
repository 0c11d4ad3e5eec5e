"""Text files are decoded as browsers do; a guess and unreadable bytes are noted, binary files refused."""

from __future__ import annotations

import pytest

from distilledprag.encodings import decode
from distilledprag.errors import InputError

TEXTS = {
    "cp1252": "Le café de l'école est ouvert – “là-bas” à midi, Größe: 5 €.",
    "cp1250": "Zażółć gęślą jaźń. Umowa została podpisana przez Annę Kowalską w Łodzi dnia 3 września.",
    "cp1251": "Договор подписан в Москве 3 сентября. Арендная плата составляет 2000 рублей.",
    "koi8_r": "Договор подписан в Москве 3 сентября. Арендная плата составляет 2000 рублей.",
    "cp1253": "Η σύμβαση υπογράφηκε στην Αθήνα στις 3 Σεπτεμβρίου. Το ενοίκιο είναι 2000 ευρώ.",
    "cp932": "契約は東京で署名されました。家賃は月額二千円です。管理番号は四八二一です。",
    "euc_jp": "契約は東京で署名されました。家賃は月額二千円です。管理番号は四八二一です。",
    "gb18030": "合同在北京签署。每月租金为二千元。管理编号是四八二一。",
    "big5": "合約在台北簽署。每月租金為二千元。管理編號是四八二一。",
    "cp949": "계약은 서울에서 체결되었습니다. 월세는 이천 원입니다.",
    "utf-16-le": "Anna lives in Oakport.\n契約は東京",
    "utf-16-be": "Anna lives in Oakport.\n契約は東京",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_an_encoding_that_no_file_names_is_guessed_and_noted(encoding):
    text, notes = decode(TEXTS[encoding].encode(encoding), "a.txt")
    assert text == TEXTS[encoding]
    assert "a guess" in notes[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_a_byte_order_mark_and_utf_8_need_no_note(encoding):
    assert decode("Anna – café 契約".encode(encoding), "a.txt") == ("Anna – café 契約", ())


@pytest.mark.parametrize("label, codec, text", [
    ("iso-8859-1", "cp1252", "“café” – 5 €"),
    ("us-ascii", "cp1252", "“café”"),
    ("gb2312", "gb18030", "朱镕基"),
    ("shift_jis", "cp932", "①髙橋"),
    ("euc-kr", "cp949", "똠방각하"),
    ("x-sjis", "cp932", "契約"),
    ("iso-8859-9", "cp1254", "İstanbul “ağır”"),
])  # fmt: skip
def test_a_label_means_what_it_means_on_the_web(label, codec, text):
    assert decode(text.encode(codec), "a.html", label) == (text, ())


def test_a_byte_order_mark_beats_the_label_and_an_unknown_label_counts_as_none():
    assert decode("café".encode("utf-8-sig"), "a.html", "iso-8859-1")[0] == "café"
    assert decode("café".encode(), "a.html", "no-such-encoding") == ("café", ())


def test_a_few_bad_bytes_in_utf_8_are_shown_and_noted():
    text, notes = decode("Größe é\n".encode() * 20 + b"\xff end", "a.txt")
    assert text.count("é") == 20 and text.endswith("\ufffd end")
    assert "line 21" in notes[0]


def test_half_a_letter_at_the_end_of_utf_16_is_noted():
    text, notes = decode("Anna".encode("utf-16")[:-1], "a.txt")
    assert text == "Ann\ufffd" and len(notes) == 1


@pytest.mark.parametrize("data, message", [
    (b"\0\1\2\3", "binary"),
    (b"Anna\0lives in Oakport", "NUL bytes"),
    (bytes(range(256)) * 4, "binary|NUL"),
    (b"%PDF-1.7 x", "a PDF file in spite of its name"),
])  # fmt: skip
def test_a_binary_file_is_refused_by_name(data, message):
    with pytest.raises(InputError, match=message) as caught:
        decode(data, "a.txt")
    assert "a.txt" in str(caught.value)
