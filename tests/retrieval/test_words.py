"""One table of words in many scripts, found in memory, in the store's full-text index, on disk and in Elasticsearch alike."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from json_server import JsonHandler, serving

from distilledprag.documents import Passage
from distilledprag.documents.store import DocumentStore, PreparedDocument
from distilledprag.errors import ConfigError, EndpointError
from distilledprag.retrieval import BM25Retriever, CorpusIndex
from distilledprag.retrieval.bm25 import StoreRetriever
from distilledprag.retrieval.elasticsearch import WORDS_FIELD, ElasticsearchRetriever, Server, index_passages
from distilledprag.words import WordRule, words_of

# what is asked, and the passage that must be found first
CASES = [
    ("नमस्ते", "उसने नमस्ते कहा"),
    ("கணினி", "புதிய கணினி வாங்கினேன்"),
    ("ভাষা", "বাংলা ভাষা শিখছি"),
    ("שלום", "הוא אמר שָׁלוֹם לכולם"),
    ("בְּרֵאשִׁית", "בראשית ברא"),
    ("בן גוריון", "נמל התעופה בן־גוריון"),
    ("محمد", "كتب مُحَمَّد رسالة"),
    ("احمد", "وصل أحمد أمس"),
    ("می‌خواهم", "من میخواهم بروم"),
    ("istanbul", "İSTANBUL'da kaldık"),
    ("DIŞ KAPI", "dış kapı açık"),
    ("STRASSE", "die kurze Straße"),
    ("cafe", "au Café Rouge"),
    ("ΑΘΗΝΑ", "στην Αθήνα σήμερα"),
    ("еще", "ещё раз"),
    ("0042", "siehe INV_2023_0042 im Ordner"),
    ("inv-2023-0042", "siehe INV_2023_0042 im Ordner"),
    ("K4821", "contract K-4821 was signed"),
    ("K–4821", "contract K-4821 was signed"),
    ("COVID 19", "a case of COVID19"),
    ("62000", "salary 62,000 euros"),
    ("62.000", "salary 62,000 euros"),
    ("62'000", "salary 62,000 euros"),
    ("62 000", "salary 62,000 euros"),
    ("71000", "Umsatz 71 000 Kronen"),
    ("1234567", "exactly 1.234.567 units"),
    ("9,00,000", "rupees 900000 paid"),
    ("2680", "deposit of $2,680.00 due"),
    ("7.25", "Zins von 7,25 Prozent"),
    ("4471", "Vertrag № 4471"),
    ("#5582", "contract 5582 ended"),
    ("Nº 6693", "file 6693 closed"),
    ("٧٧٨١", "رقم 7781 مفتوح"),
    ("８８９２", "half width 8892 sign"),
    ("東京タワー", "昨日、東京タワーに登った"),
    ("猫", "那只黑猫睡了"),
    ("北京大学", "他在北京大学读书"),
    ("서울", "나는 서울에서 산다"),
    ("สวัสดี", "เขาพูดว่าสวัสดีครับ"),
    ("ភាសា", "ខ្ញុំរៀនភាសាខ្មែរ"),
    ("desk@nexmere.com", "write to desk@nexmere.com today"),
    ("nexmere", "write to desk@nexmere.com today"),
    ("e-mail", "send an email now"),
    ("km²", "some 640 km2 of land"),
]
PASSAGES = [Passage(text, "", index=place) for place, text in enumerate(dict.fromkeys(text for _, text in CASES))]


class SearchServer(JsonHandler):
    """What Elasticsearch does with such an index, as its documentation says: splits at white space, ranks by BM25. Not a real
    server: none can be run here."""

    def do_PUT(self):
        made = json.loads(self.body())
        field = made["mappings"]["properties"][WORDS_FIELD]
        assert field["analyzer"] == "whitespace" and made["settings"]["number_of_shards"] == 1
        self.server.similarity = made["settings"]["similarity"][field["similarity"]]
        self.server.documents = {}
        self.reply({"acknowledged": True})

    def do_POST(self):
        body = self.body()
        if "_bulk" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.documents |= {a["index"]["_id"]: b for a, b in zip(lines[::2], lines[1::2], strict=True)}
            self.reply({"errors": len(lines) > 2 and lines[1]["txt"] == "refused"})
            return
        asked = json.loads(body)
        cut = {id: Counter(fields[WORDS_FIELD].split()) for id, fields in self.server.documents.items()}
        mean = sum(c.total() for c in cut.values()) / len(cut)
        k1, b = self.server.similarity["k1"], self.server.similarity["b"]
        scores = Counter()
        for word in asked["query"]["match"][WORDS_FIELD]["query"].split():
            n = sum(word in c for c in cut.values())
            for id, c in cut.items():
                norm = k1 * (1 - b + b * c.total() / mean)
                scores[id] += math.log(1 + (len(cut) - n + 0.5) / (n + 0.5)) * c[word] / (c[word] + norm)
        best = sorted((id for id in scores if scores[id]), key=lambda id: (-scores[id], int(id)))[: asked["size"]]
        hits = [{"_id": id, "_score": scores[id], "_source": self.server.documents[id]} for id in best]
        self.reply({"hits": {"hits": hits}})


@pytest.fixture(scope="module")
def server():
    with serving(SearchServer) as address:
        yield Server(address)


@pytest.fixture(scope="module")
def retrievers(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    store = DocumentStore(folder / "store")
    store.add([PreparedDocument("cases.txt", PASSAGES, "0", 1)])
    (folder / "cases.jsonl").write_text("".join(json.dumps({"text": p.text}) + "\n" for p in PASSAGES))
    index_passages(server, "cases", PASSAGES)
    yield {
        "memory": BM25Retriever(PASSAGES),
        "store": StoreRetriever(store.database),
        "disk": CorpusIndex.build(folder / "cases.jsonl", folder / "index", show_progress=False),
        "elasticsearch": ElasticsearchRetriever(server.url, "cases", words_field=WORDS_FIELD),
    }
    store.close()


@pytest.mark.parametrize("where", ["memory", "disk", "elasticsearch"])
def test_every_case_is_found_first_everywhere(retrievers, where):
    assert not missed(retrievers[where])


def test_every_case_is_found_first_in_a_store(new_place):
    store = DocumentStore(new_place())
    store.add([PreparedDocument("cases.txt", PASSAGES, "0", 1)])
    assert not missed(StoreRetriever(store.database))
    store.close()


def missed(retriever):
    missed = []
    for question, text in CASES:
        found = retriever.retrieve(question, 1)
        if not found or found[0][1] <= 0 or found[0][0].text != text:
            missed.append((question, text, found))
    return missed


def test_scores_are_the_same_everywhere(retrievers):
    for question in ("62 000 euros salary", "東京 黑猫", "नमस्ते बांग्ला ভাষা", "Café INV_2023_0042"):
        scores = {
            where: [round(score, 4) for _, score in retriever.retrieve(question, 5) if score > 0]
            for where, retriever in retrievers.items()
        }
        assert len(scores["memory"]) and len({tuple(found) for found in scores.values()}) == 1, scores


@pytest.mark.parametrize("text, words", [
    ("in 2023 500 people", ["2023", "500", "people"]),
    ("10,12,14", ["10", "12", "14"]),
    ("room 12 345", ["room", "12345", "12", "345"]),
    ("10² and 1½", ["10", "2", "1", "1", "2"]),
    ("version 3.10", ["version", "3.10", "3", "10"]),
    ("2023-05-01", ["2023-05-01", "2023", "05", "01"]),
    ("d41d8cd98f00b204", ["d41d8cd98f00b204"]),
    ("Zürich", ["zürich", "zurich"]),
    ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
    ("й и", ["й", "и"]),
    ("", []),
    ("the of !?", []),
    ("\ud800", []),
])  # fmt: skip
def test_words_are_cut_as_the_rules_say(text, words):
    assert words_of(text) == words


def test_plain_english_is_cut_the_same_beside_other_scripts():
    text = "Velkor Freight's contract K-4821 of 3 May 2023 costs $1,250.50; write to a.b@nexmere.com, or see INV_7."
    assert words_of(f"{text} é") == [*words_of(text), "é", "e"]


@pytest.mark.parametrize("language, one, other, dropped", [
    ("english", "running", "runs", "the"),
    ("german", "Verträge", "Vertrages", "und"),
    ("hindi", "किताबें", "किताब", ""),
])  # fmt: skip
def test_a_language_brings_stems_and_its_stop_words(language, one, other, dropped):
    rule = WordRule.of_language(language)
    assert set(words_of(one, rule)) & set(words_of(other, rule)) and not set(words_of(one)) & set(words_of(other))
    assert words_of(dropped, rule) == []
    assert WordRule.parse(rule.describe()) == rule


def test_a_language_without_a_stemmer_is_refused_with_those_that_have_one():
    with pytest.raises(ConfigError, match=r"no stemmer for 'klingon'.*english"):
        WordRule.of_language("klingon")
    with pytest.raises(ConfigError, match="stop words for 'klingon'"):
        WordRule(stop_words="klingon")


def test_a_store_is_searched_by_stems_from_when_a_language_is_named(new_place):
    place = new_place()
    store = DocumentStore(place)
    store.add([PreparedDocument("a.txt", [Passage("Sie unterschrieb zwei Verträge.", "")], "0", 1)])
    assert StoreRetriever(store.database).retrieve("Vertrages", 1) == []
    store.close()
    for rule in (WordRule.of_language("german"), None):  # None: as before
        store = DocumentStore(place, rule)
        store.add([PreparedDocument("b.txt", [Passage("Das Haus.", "")], "1", 1)])
        found = StoreRetriever(store.database).retrieve("Vertrages Häuser", 2)
        memory = BM25Retriever(
            [Passage("Sie unterschrieb zwei Verträge.", ""), Passage("Das Haus.", "")], WordRule.of_language("german")
        )
        assert sorted(score for _, score in found) == pytest.approx(
            sorted(s for _, s in memory.retrieve("Vertrages Häuser", 2)), rel=1e-5
        )
        store.close()


def test_passages_that_a_server_does_not_store_are_an_error(server):
    with pytest.raises(EndpointError, match="did not store all"):
        index_passages(server, "other", [Passage("refused", ""), Passage("b", "")])
