"""Quotes: found whatever stands between the words, without spaces, and cut over several messages; names are none."""

from __future__ import annotations

import pytest

from distilledprag.documents.indexing import prepare_text
from distilledprag.documents.store import DocumentStore
from distilledprag.gateway.quotes import QuotedDocumentError, QuotePolicy

ENGLISH = "Anna Tovberg lives in Oakport and earns forty thousand pounds a year as the keeper of the northern lighthouse."
CHINESE = "王小明住在北京市海淀区中关村大街二十七号。他在清华大学附属医院担任心脏外科主任医师。"
QUOTE = "lives in Oakport and earns forty thousand pounds a year"
CLAUSE = "他在清华大学附属医院担任心脏外科主任医师"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = DocumentStore(tmp_path_factory.mktemp("quotes") / "store")
    texts = {
        "english.txt": ENGLISH,
        "chinese.txt": CHINESE,
        "hindi.txt": HINDI,
        "other.txt": "The vessel Copperleaf carries 412 passengers.",
    }
    store.add([prepare_text(name, text, store.reading_folder) for name, text in texts.items()])
    yield store
    store.close()


HINDI = "अन्ना तोवबर्ग ओकपोर्ट में रहती हैं और उत्तरी प्रकाशस्तंभ की देखभाल के लिए हर साल चालीस हज़ार रुपये कमाती हैं।"


def refuses(store, question, *earlier):
    try:
        QuotePolicy(store, "engine").check(question, [{"role": role, "content": text} for role, text in earlier])
    except QuotedDocumentError as error:
        assert "Oakport" not in str(error) and "清华" not in str(error)
        return True
    return False


@pytest.mark.parametrize("joint", [" ", "_", "-", "...", "\n\n", " | "])
def test_a_quote_is_found_whatever_stands_between_its_words(store, joint):
    assert refuses(store, f"Is it so: {QUOTE.replace(' ', joint)}?")


@pytest.mark.parametrize(
    "question", [CLAUSE, f"是真的吗：{CLAUSE}", " ".join(CLAUSE), f"Is it true that {CLAUSE}?", CLAUSE[1:13]]
)
def test_a_quote_without_spaces_is_found(store, question):
    assert refuses(store, question)


def test_a_quote_in_a_script_with_marks_is_found(store):
    assert refuses(store, f"क्या यह सच है: {' '.join(HINDI.split()[3:13])}?")
    assert not refuses(store, "अन्ना तोवबर्ग कहाँ रहती हैं?")


@pytest.mark.parametrize("question", ["清华大学附属医院的电话号码是多少？", "谁住在北京？", "Where does Anna Tovberg live?"])
def test_a_question_that_names_things_is_no_quote(store, question):
    assert not refuses(store, question)


def test_a_quote_cut_over_several_messages_is_found(store):
    words = QUOTE.split()
    parts = [" ".join(words[start : start + 4]) for start in range(0, len(words), 4)]
    assert not refuses(store, parts[0])
    assert refuses(store, parts[-1], *(("user", part) for part in parts[:-1]))
    assert refuses(store, CLAUSE[7:], ("user", CLAUSE[:7]))


def test_an_answer_of_the_engine_between_the_parts_does_not_hide_them(store):
    store.remember_answer("engine", "I see.")
    first, second = QUOTE[:26], QUOTE[26:]
    assert refuses(store, second, ("user", first), ("assistant", "I see."))


def test_a_conversation_about_one_document_goes_on(store):
    questions = ["Where does Anna Tovberg live?", "What does Anna Tovberg earn?", "Who keeps the northern lighthouse?"]
    assert not refuses(store, questions[2], ("user", questions[0]), ("user", questions[1]))
