"""HTML, Markdown, delimited values, e-mail, e-books and rich text."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

from PIL import Image
from reader_cases import COLUMNS, FACT, HEADS, STAFF, UNREAD, Cases

CASES = Cases()
MERGED = (
    "<table><thead><tr><th rowspan=2>Region<th colspan=2>2024<th colspan=2>2025<tr><th>Revenue<th>Cost<th>Revenue<th>Cost</thead>"
    "<tr><td rowspan=2>North<td>51<td>31<td>61<td>41<tr><td>52<td>32<td>62<td>42</table>"
)
TABLE = (
    "<table><tr><th>Name<th>City<th>Salary"
    + "".join("<tr>" + "".join(f"<td>{text}" for text in row) for row in STAFF[1:])
    + "</table>"
)
HIDDEN = (
    "<style>.away{display:none} #back.away{display:block} @media print{p{display:none}}</style><p class=away>Millport</p>"
    "<p style='visibility: hidden'>Tarnport <b style='visibility:visible'>Room 4711</b></p><p hidden>Holmport</p>"
    f"<p id=back class=away>Room 4712</p><p aria-hidden=true>{FACT}</p>"
)
FORM = (
    "<label>Name <input value='Maria Lindgren'></label><label>City <select><option>Millport<option selected>Oakport</select>"
    "</label>"
    "<label>Smoker <input type=checkbox checked></label><input type=hidden value=4711>"
)

CASES.text(".txt", "text", f"\n\n{FACT}\n", (FACT,))
CASES.text(".html", "text", f"<nav>Home</nav><h1>Lease</h1><p>{FACT}<p>Room 4711", (FACT,), ("Room 4711",), absent=["Home"])
CASES.text(".html", "tables", TABLE, *COLUMNS)
CASES.text(".html", "merged cells, rows of heads", MERGED, *HEADS)
CASES.text(
    ".html",
    "deleted, moved and hidden text",
    HIDDEN,
    (FACT,),
    ("Room 4711",),
    ("Room 4712",),
    absent=["Millport", "Tarnport", "Holmport"],
)
CASES.text(".html", "form fields", FORM, ("Name Maria Lindgren",), ("City Oakport",), ("Smoker ☒",), absent=["4711", "Millport"])
CASES.text(
    ".html",
    "equations",
    "<p>So <math><mi>E</mi><mo>=</mo><msup><mi>x</mi><mn>2</mn></msup></math> and 10<sup>6</sup></p>",
    ("E=x²", "10⁶"),
)
DECORATION = (
    "<img src=a alt=''><img src=b role=presentation><img src=c width=1 height=1><img src=d height=16><p hidden><img src=e></p>"
)
CASES.text(
    ".html",
    UNREAD,
    f"<p>{FACT}<img src=x><img src=x><img src=y alt='image 1'>{DECORATION}",
    (FACT,),
    note="^2 pictures are not read$",
)
CASES.text(".html", "pictures' descriptions", "<img src=x alt='Plan of Oakport 4711'>", ("Plan of Oakport 4711",))

CASES.text(".md", "text", f"# Lease\n\n{FACT}\n", (FACT,))
CASES.text(
    ".md", "tables", "| " + " |\n| ".join(" | ".join(row) for row in [STAFF[0], ["---"] * 3, *STAFF[1:]]) + " |\n", *COLUMNS
)
CASES.text(
    ".md", "a rule at the beginning", f"---\n{FACT} It stays there\n\nRoom 4711\n\n---\n\nThe end.\n", (FACT,), ("Room 4711",)
)
CASES.text(".md", UNREAD, f"{FACT}\n\n![](x.png) ![screenshot.png](y.png)\n", (FACT,), note="^2 pictures are not read$")
CASES.text(".md", "pictures' descriptions", "![Plan of Oakport 4711](x.png)\n", ("Plan of Oakport 4711",))
CASES.text(".md", "front matter", f"---\ntitle: Lease\nauthor: Anna Berg\n---\n{FACT}\n", (FACT,), ("author: Anna Berg",))
CASES.text(
    ".md", "list items below ten levels", "".join(f"{'  ' * n}- level {n}\n" for n in range(25)), ("level 9",), ("level 24",)
)

for suffix, between in ((".csv", ","), (".tsv", "\t")):
    CASES.text(suffix, "tables", "\n".join(between.join(row) for row in STAFF), *COLUMNS)
CASES.text(
    ".csv",
    "semicolons, quotes, a title line",
    'Staff of 2026\nName;City;Salary\n"Berg; Anna";"Oak""port";"4.711"\nBen;Millport;4712\n',
    ("Staff of 2026",),
    ("Name: Berg; Anna", 'City: Oak"port', "Salary: 4.711"),
)
CASES.text(".csv", "damaged", 'Name,City\n"Anna,Oakport\0', refused="NUL bytes")
CASES.text(".jsonl", "text", f'{{"title": "Lease", "text": "{FACT}"}}\n', (FACT,))
CASES.text(".jsonl", "damaged", '{"text": "a"}\n{"text"\n', refused="line 2 is not JSON")
CASES.text(".json", "text", f'[{{"title": "Lease", "text": "{FACT}"}}]', (FACT,))
CASES.text(".json", "damaged", '[{"text": "a"}', refused="is not JSON")

RTF_TABLE = "".join("\\trowd\\cellx1\\cellx2\\cellx3 " + "".join(f"{text}\\cell " for text in row) + "\\row" for row in STAFF)
CASES.text(".rtf", "text", f"{{\\rtf1\\ansi\\ansicpg1252 {FACT} It is in M\\'fcnchen \\u8364?.\\par}}", (FACT, "München €"))
CASES.text(".rtf", "tables", f"{{\\rtf1\\ansi {FACT}\\par {RTF_TABLE}\\pard Then.\\par}}", *COLUMNS)
CASES.text(
    ".rtf",
    "footnotes and endnotes",
    "{\\rtf1\\ansi The rent{\\footnote plus 19 percent tax} is 2000.\\par}",
    ("Footnote: plus 19 percent tax",),
    ("The rent is 2000",),
)
CASES.text(
    ".rtf", "headers and footers", f"{{\\rtf1\\ansi{{\\header Contract 4821-K\\par}}{FACT}\\par}}", ("Contract 4821-K",), (FACT,)
)
CASES.text(
    ".rtf", "deleted, moved and hidden text", f"{{\\rtf1\\ansi {FACT}{{\\v Millport}}\\par}}", (FACT,), absent=["Millport"]
)
CASES.text(".rtf", "damaged", "no rich text", refused="no rich text")


def message(html=True):
    mail = EmailMessage()
    mail["From"], mail["Subject"], mail["Date"] = (
        "Anna Berg <anna@oakport.example>",
        "Lease für 2026",
        "Tue, 3 Mar 2026 10:00:00 +0000",
    )
    mail.set_content(FACT)
    if html:
        mail.add_alternative(f"<p>{FACT}</p>{TABLE}", subtype="html")
    return mail


def eml(feature, *facts, **others):
    def keep(build):
        CASES.add(".eml", feature, *facts, **others)(lambda file: file.write_bytes(build().as_bytes()))
        return build

    return keep


eml("text", (FACT,), ("Anna Berg", "Lease für 2026", "3 Mar 2026"))(lambda: message(html=False))
eml("tables", (FACT,), *COLUMNS)(message)


@eml("attachments", (FACT,), *COLUMNS, ("inner 4711",), note="attachment x.zip is not read")
def attached():
    mail = message(html=False)
    mail.add_attachment("\n".join(",".join(row) for row in STAFF).encode(), maintype="text", subtype="csv", filename="staff.csv")
    mail.add_attachment(b"PK\3\4", maintype="application", subtype="zip", filename="x.zip")
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("The inner 4711.")
    mail.add_attachment(inner)
    return mail


CASES.text(".eml", "damaged", "just a text", refused="no e-mail")
OUTLOOK = Path(__file__).parents[2] / "data" / "outlook"
CASES.text(
    ".msg",
    "attachments",
    (OUTLOOK / "msgInMsg.msg").read_bytes(),
    ("I have attachments!",),
    ("Microsoft Outlook テスト メッセージ", "xmailuser@xmailserver.test", "2020-05-12"),
    ("アカウントの設定のテスト中に",),
    note="attachment green.png is not read",
)
CASES.text(
    ".msg",
    "text in an unnamed code page",
    (OUTLOOK / "nonUnicodeCP932.msg").read_bytes(),
    ("日本語 Non Unicode 本文",),
    ("日本語 Non Unicode タイトル", "xmailuser2@xmailserver.test"),
    note=r"shift_jis \(a guess\)",
)
CASES.text(".msg", "damaged", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", refused="cannot be read as an Outlook message")


def book_of(file, pages, extra=()):
    """A book that shows `pages` from the last to the first. extra: (name, content) of further parts."""
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("META-INF/container.xml", '<container><rootfiles><rootfile full-path="O/c.opf"/></rootfiles></container>')
        items = "".join(f'<item id="p{n}" href="p{n}.xhtml"/>' for n in range(len(pages)))
        order = "".join(f'<itemref idref="p{n}"/>' for n in reversed(range(len(pages))))
        book.writestr("O/c.opf", f"<package><manifest>{items}</manifest><spine>{order}</spine></package>")
        for n, page in enumerate(pages):
            book.writestr(
                f"O/p{n}.xhtml", f'<?xml version="1.0"?><html><head><title>Lease</title></head><body>{page}</body></html>'
            )
        for name, content in extra:
            book.writestr(name, content)


def epub(feature, *facts, pages, extra=(), **others):
    CASES.add(".epub", feature, *facts, **others)(lambda file: book_of(file, pages, extra))


epub("text", (FACT,), ("Room 4711",), pages=[f"<p>{FACT}</p>", "<h1>One</h1><p>Room 4711</p>"])
epub("tables", *COLUMNS, pages=[TABLE])
epub("merged cells, rows of heads", *HEADS, pages=[MERGED])


def drawn(width, height):
    made = io.BytesIO()
    Image.new("1", (width, height)).save(made, "PNG")
    return made.getvalue()


epub(
    UNREAD,
    (FACT,),
    note="^1 picture is not read$",
    pages=[f"<p>{FACT}<img src='a.png'/></p>", "<p>More<img src='a.png'/><img src='b.png'/><img src='gone.png'/></p>"],
    extra=[("O/a.png", drawn(600, 60)), ("O/b.png", drawn(200, 60))],
)
epub(
    "scanned pages among readable ones",
    (FACT,),
    note="1 page holds only pictures",
    pages=[f"<p>{FACT}</p>", "<img src='x.png'/>"],
)
epub(
    "password",
    pages=[f"<p>{FACT}</p>"],
    refused="copy-protected",
    extra=[("META-INF/encryption.xml", '<encryption><CipherReference URI="O/p0.xhtml"/></encryption>')],
)
CASES.text(".epub", "damaged", b"PK no zip", refused="cannot be read as an EPUB book")
