"""Automatic numbers of Word and OpenDocument files: what stands before headings and list items, and how both count."""

from __future__ import annotations

import zipfile

import pytest
from hostile_files import WORD
from office_cases import ITEM, ODF

from distilledprag.documents.loading import load_document
from distilledprag.documents.readers import read
from distilledprag.documents.readers.numerals import numeral

# --- Word

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@pytest.fixture
def word(tmp_path):
    """(body, lists, styles) -> "title | text" of each block."""

    def blocks(body, lists, styles=""):
        links = "".join(
            f'<Relationship Id="{part}" Type="{OFFICE}/{part}" Target="{part}.xml"/>' for part in ("numbering", "styles")
        )
        relations = f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>'
        made = tmp_path / "made.docx"
        with zipfile.ZipFile(made, "w") as new:
            new.writestr("word/document.xml", f"<w:document {WORD}><w:body>{body}</w:body></w:document>")
            new.writestr("word/_rels/document.xml.rels", relations)
            new.writestr("word/styles.xml", f"<w:styles {WORD}>{styles}</w:styles>")
            new.writestr("word/numbering.xml", f"<w:numbering {WORD}>{lists}</w:numbering>")
        return [f"{block.title} | {block.text}" if block.title else block.text for block in read(made).blocks]

    return blocks


def level(number, text, form="decimal", start=1, more=""):
    return (
        f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>{more}<w:lvlText w:val="{text}"/></w:lvl>'
    )


def abstract(number, *levels):
    return f'<w:abstractNum w:abstractNumId="{number}">{"".join(levels)}</w:abstractNum>'


def num(number, of, more=""):
    return f'<w:num w:numId="{number}"><w:abstractNumId w:val="{of}"/>{more}</w:num>'


def p(text, of=None, at=0, style="", mark="", inner=""):
    place = "" if of is None else f'<w:numPr><w:ilvl w:val="{at}"/><w:numId w:val="{of}"/></w:numPr>'
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{named}{place}<w:rPr>{mark}</w:rPr></w:pPr><w:r><w:t>{text}</w:t></w:r>{inner}</w:p>"


def style(name, base="", properties="", kind="paragraph"):
    return (
        f'<w:style w:type="{kind}" w:styleId="{name}"><w:name w:val="{name}"/><w:basedOn w:val="{base}"/>'
        f"<w:pPr>{properties}</w:pPr></w:style>"
    )


CONTRACT = abstract(0, level(0, "%1."), level(1, "%1.%2"), level(2, "(%3)", "lowerLetter"), level(3, "(%4)", "lowerRoman"))
AGAIN = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>'


def test_levels_count_within_those_above_and_go_on_across_text_and_tables(word):
    cells = "".join(f"<w:tc>{p(text, 1, 1)}</w:tc>" for text in ("in", "a table"))
    body = (
        p("Parties", 1) + p("one", 1, 1) + p("a", 1, 2) + p("b", 1, 2) + p("deep", 1, 3) + p("two", 1, 1) + p("a", 1, 2)
        + p("plain") + p("Rent", 1) + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>" + p("after it", 1, 1)
    )  # fmt: skip
    assert word(body, CONTRACT + num(1, 0)) == [
        "1. Parties", "1.1 one", "(a) a", "(b) b", "(i) deep", "1.2 two", "(a) a",
        "plain", "2. Rent", "2.1 in: 2.2 a table", "2.3 after it",
    ]  # fmt: skip


def test_lists_of_one_definition_count_on_and_one_starts_again_where_it_says_so(word):
    own = f'<w:lvlOverride w:ilvl="0">{level(0, "Q%1", start=3)}</w:lvlOverride>'
    body = "".join(p(text, of) for text, of in (("a", 1), ("b", 2), ("c", 3), ("d", 3), ("e", 1), ("f", 4)))
    lists = CONTRACT + num(1, 0) + num(2, 0) + num(3, 0, AGAIN) + num(4, 0, own)
    assert word(body, lists) == ["1. a", "2. b", "7. c", "8. d", "9. e", "Q10 f"]


def test_a_level_without_the_one_above_begins_it(word):
    assert word(p("a", 1, 1) + p("b", 1, 1) + p("c", 1), CONTRACT + num(1, 0)) == ["1.1 a", "1.2 b", "2. c"]


def test_a_level_may_never_begin_anew_or_only_below_some(word):
    lists = abstract(
        0, level(0, "%1"), level(1, "%1.%2"), level(2, "never %3", more='<w:lvlRestart w:val="0"/>'),
        level(3, "first %4", more='<w:lvlRestart w:val="1"/>'),
    ) + num(1, 0)  # fmt: skip
    body = "".join(p("x", 1, at) for at in (0, 1, 2, 3, 1, 2, 3, 0, 1, 2, 3))
    assert [text.removesuffix(" x") for text in word(body, lists)] == [
        "1", "1.1", "never 1", "first 1", "1.2", "never 2", "first 2", "2", "2.1", "never 3", "first 1",
    ]  # fmt: skip


def test_legal_numbers_show_the_levels_above_as_figures(word):
    lists = abstract(0, level(0, "Article %1.", "upperRoman"), level(1, "Section %1.%2", "decimalZero", more="<w:isLgl/>"))
    body = p("Term", 1) + p("Begin", 1, 1) + p("Rent", 1) + p("Due", 1, 1)
    assert word(body, lists + num(1, 0)) == ["Article I. Term", "Section 1.01 Begin", "Article II. Rent", "Section 2.01 Due"]


def test_bullets_add_nothing_and_a_level_without_a_number_its_words(word):
    lists = abstract(0, level(0, "\uf0b7", "bullet"), level(1, "Note:", "none"))
    assert word(p("a", 1) + p("b", 1, 1), lists + num(1, 0)) == ["a", "Note: b"]


def test_styles_name_the_list_and_its_levels_name_the_styles(word):
    lists = abstract(
        0, level(0, "%1", more='<w:pStyle w:val="Head"/>'), level(1, "%1.%2", more='<w:pStyle w:val="Clause"/>'),
        level(2, "(%3)", "lowerLetter", more='<w:pStyle w:val="Sub"/>'),
    ) + num(1, 0)  # fmt: skip
    numbers = '<w:numPr><w:numId w:val="1"/></w:numPr>'
    styles = (
        style("Head", properties=f'{numbers}<w:outlineLvl w:val="0"/>')
        + style("Clause", properties=numbers) + style("Sub", "Clause") + style("Same", "Head")
    )  # fmt: skip
    body = p("Rent", style="Head") + p("due", style="Clause") + p("monthly", style="Sub") + p("late", style="Clause")
    body += p("no number", 0, style="Clause") + p("Keys", style="Same") + p("three", style="Clause")
    assert word(body, lists, styles) == [
        "1 Rent | 1.1 due", "1 Rent | (a) monthly", "1 Rent | 1.2 late", "1 Rent | no number", "2 Keys | 2.1 three"
    ]  # fmt: skip


def test_a_definition_may_be_that_of_a_list_style_and_counts_for_itself(word):
    lists = abstract(0, '<w:numStyleLink w:val="L"/>') + abstract(1, '<w:styleLink w:val="L"/>', level(0, "M%1"))
    styles = style("L", properties='<w:numPr><w:numId w:val="2"/></w:numPr>', kind="numbering")
    assert word(p("a", 1) + p("b", 1) + p("c", 2), lists + num(1, 0) + num(2, 1), styles) == ["M1 a", "M2 b", "M1 c"]


def test_deleted_and_hidden_paragraphs_are_not_counted_and_empty_ones_are(word):
    gone = '<w:del w:id="1"/>'
    deleted = f"<w:p><w:pPr><w:numPr><w:numId w:val='1'/></w:numPr><w:rPr>{gone}</w:rPr></w:pPr></w:p>"
    hidden = p("", 1, mark="<w:vanish/>")
    body = p("a", 1) + deleted + hidden + p("b", 1) + p("", 1) + p("c ", 1, mark=gone) + p("goes on", 1) + p("end", 1, mark=gone)
    assert word(body, CONTRACT + num(1, 0)) == ["1. a", "2. b", "4. c goes on", "end"]


def test_text_boxes_count_for_themselves(word):
    box = f"<w:r><w:pict><w:txbxContent>{p('in', 1)}</w:txbxContent></w:pict></w:r>"
    assert word(p("a", 1) + p("b", 1, inner=box) + p("c", 1), CONTRACT + num(1, 0)) == ["1. a", "2. b1. in", "3. c"]


def test_hostile_lists_cost_little_and_end(word):
    count = 1000
    nums = "".join(
        num(n, n, f'<w:lvlOverride w:ilvl="0">{level(0, "%9" * 100_000 if n == 1 else "%1")}</w:lvlOverride>')
        for n in range(count)
    )
    links = "".join(abstract(n, f'<w:numStyleLink w:val="s{n}"/>') for n in range(count))
    styles = "".join(style(f"s{n}", f"s{n}", f'<w:numPr><w:numId w:val="{(n + 1) % count}"/></w:numPr>') for n in range(count))
    body = "".join(p("x", n, "99999") + p("y", "1", "-1") + p("z", style=f"s{n}") for n in range(count))
    assert len(word(body, links + nums, styles)) == 3 * count


# --- OpenDocument

LISTS = (
    '<text:outline-style style:name="Outline"><text:outline-level-style text:level="1" style:num-format="I" '
    'style:num-prefix="Part "/><text:outline-level-style text:level="2" style:num-format=""/><text:outline-level-style '
    'text:level="3" style:num-format="1" style:num-suffix=")" text:display-levels="3"/></text:outline-style>'
    '<text:list-style style:name="L"><text:list-level-style-number text:level="1" style:num-format="1" style:num-suffix="."/>'
    '<text:list-level-style-number text:level="2" style:num-format="a" style:num-prefix="(" style:num-suffix=")"/>'
    '</text:list-style><text:list-style style:name="B"><text:list-level-style-bullet text:level="1" text:bullet-char="-"/>'
    '</text:list-style><style:style style:name="Plain" style:list-style-name=""/>'
    '<style:style style:name="Plainer" style:parent-style-name="Plain"/>'
)


@pytest.fixture
def odt(tmp_path):
    def blocks(body):
        with zipfile.ZipFile(tmp_path / "made.odt", "w") as package:
            whole = f"<office:body><office:text>{body}</office:text></office:body>"
            package.writestr("content.xml", f"<office:document-content {ODF}>{whole}</office:document-content>")
            package.writestr("styles.xml", f"<office:document-styles {ODF}>{LISTS}</office:document-styles>")
        made = read(tmp_path / "made.odt").blocks
        return [f"{block.title} | {block.text}" if block.title else block.text for block in made]

    return blocks


def items(*texts, more=""):
    inner = "".join(ITEM.format(text if text.startswith("<") else f"<text:p>{text}</text:p>") for text in texts)
    return f'<text:list text:style-name="L"{more}>{inner}</text:list>'


def test_headings_have_the_numbers_of_the_outline(odt):
    def heading(level, text, more=""):
        return f'<text:h text:outline-level="{level}"{more}>{text}</text:h><text:p>{text.lower()}</text:p>'

    body = heading(1, "One") + heading(2, "Two") + heading(3, "Three") + heading(1, "Not", ' text:is-list-header="true"')
    body += heading(1, "Nor", ' text:style-name="Plainer"') + heading(1, "Last")
    assert odt(body) == [
        "Part I One | one", "Two | two", "I.1) Three | three", "Not | not", "Nor | nor", "Part II Last | last"
    ]  # fmt: skip


def test_a_list_begins_anew_or_goes_on(odt):
    body = (
        items("a", "<text:p>b</text:p><text:p>more</text:p>", more=' xml:id="i"') + items("c") + "<text:p>plain</text:p>"
        + items("d", more=' text:continue-numbering="true"') + items("e", more=' text:continue-list="i"')
        + '<text:list text:style-name="B"><text:list-item><text:p>bullet</text:p></text:list-item></text:list>'
    )  # fmt: skip
    assert odt(body) == ["1. a", "2. b", "more", "1. c", "plain", "2. d", "3. e", "bullet"]


def test_lists_within_items_count_within_them(odt):
    inner = "<text:list>" + ITEM.format("<text:p>{}</text:p>") + "</text:list>"
    first = items(f"<text:p>One</text:p>{inner.format('x')}{inner.format('anew')}", "Two")
    goes_on = items(
        inner.format("below two") + "<text:p>text</text:p>", inner.format("and on"), more=' text:continue-numbering="true"'
    )
    header = "<text:list-header><text:p>no number</text:p></text:list-header>"
    told = '<text:list-item text:start-value="7"><text:p>seven</text:p></text:list-item>'
    body = first + goes_on + f'<text:list text:style-name="L">{header}{told}</text:list>'
    assert odt(body) == [
        "1. One", "(a) x", "(a) anew", "2. Two", "(a) below two", "text", "(b) and on", "no number", "7. seven"
    ]  # fmt: skip


def test_lists_in_tables_are_numbered(odt):
    cells = f"<table:table-cell>{items('a', 'b')}</table:table-cell><table:table-cell><text:p>c</text:p></table:table-cell>"
    assert odt(f"<table:table><table:table-row>{cells}</table:table-row></table:table>") == ["1. a 2. b: c"]


# --- numbers


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("decimal", "1 4 21 105"), ("lowerLetter", "a d u aaaaa"), ("upperLetters", "A D U DA"), ("upperRoman", "I IV XXI CV"),
        ("lowerRoman", "i iv xxi cv"), ("ordinal", "1st 4th 21st 105th"), ("cardinalText", "One Four Twenty-one 105"),
        ("ordinalText", "First Fourth Twenty-first 105"), ("decimalZero", "01 04 21 105"), ("001, 002, ...", "001 004 021 105"),
        ("chineseCounting", "一 四 二十一 一百零五"), ("russianUpper", "А Г Х ТТТТ"),
        ("none", "   "), ("of another world", "1 4 21 105"),
    ],
)  # fmt: skip
def test_numbers_are_written_in_their_form(form, shown):
    assert " ".join(numeral(number, form) for number in (1, 4, 21, 105)) == shown


@pytest.mark.parametrize("form", ["lowerLetter", "upperRoman", "cardinalText", "chineseCounting", "decimalEnclosedCircle"])
def test_a_number_that_its_form_cannot_show_is_written_in_figures(form):
    assert numeral(99_999, form) == "99999"


def test_a_clause_keeps_its_number_however_long_its_first_sentence_is(tmp_path, word):
    word(p("The tenant " + "and the owner " * 60 + "agree.", 1) + p("Short.", 1), CONTRACT + num(1, 0))
    first = load_document(tmp_path / "made.docx", 80).passages[0].text
    assert first.startswith("1. The tenant and")
