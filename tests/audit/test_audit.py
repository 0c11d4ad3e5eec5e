"""The audit: attackers that read what is there and nothing else, measures worked by hand, and a run that goes on."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import PAPER, random_generator

from distilledprag.audit.adapters import Dial, Held, Passage, held_by_engine, passage_of
from distilledprag.audit.attackers import build_attacker
from distilledprag.audit.run import rare_tokens, shares, summary
from distilledprag.base.architecture import embedding_table
from distilledprag.base.llm import load_base
from distilledprag.cli.evaluate import dials
from distilledprag.evaluation.methods import Setting
from distilledprag.evaluation.questions import BLANK, telling_words, templated_questions
from distilledprag.generators.compressed import CompressorSettings, StateCompressor
from distilledprag.generators.state import StateGenerator, noisy
from distilledprag.prompts import PromptBuilder

NAMES = ("Anna", "Bram", "Clara", "Velkor", "Oakport", "Millport", "Dunburg", "Ashford")
TEXTS = [
    f"{a} lives in {b} and pays ${100 + 7 * i} a month. The contract with {c} ends on {1 + i} March 2026."
    for i, (a, b, c) in enumerate((a, b, c) for a in NAMES[:4] for b in NAMES[4:] for c in NAMES[:2] if a != c)
]


def nothing(done: int, of: int) -> None:
    pass


@pytest.fixture(scope="module")
def setting(tiny_prepared_folder):
    base = load_base(tiny_prepared_folder, dtype=torch.float32)
    prompts = PromptBuilder(base.tokenizer, base.mask_token_id)
    made = Setting(base, prompts, {"paper": random_generator(base, PAPER)}, states=StateGenerator(base, prompts, 1))
    made.compressors["state_r2"] = StateCompressor(CompressorSettings(ratios=(2,), layer=1, rank=2), base)
    return made


@pytest.fixture(scope="module")
def passages(setting):
    return [passage_of(setting, text) for text in TEXTS]


def test_rows_stand_for_the_tokens_that_were_read(setting, passages):
    whole = held_by_engine(setting, Dial(), passages[:2])
    assert [one.read for one in whole] == [list(one.ids) for one in passages[:2]]
    assert all(len(one.rows) == len(one.sizes) == len(one.read) for one in whole)
    merged = held_by_engine(setting, Dial("state_r2"), passages[:1])[0]
    assert sum(merged.sizes) == len(merged.read) and len(merged.rows) == -(-len(merged.read) // 2)
    lora = held_by_engine(setting, Dial("paper"), passages[:2])[1]
    config = setting.base.model.config
    width = config.hidden_size + config.intermediate_size
    assert lora.sizes is None and lora.rows.shape == (3 * config.num_hidden_layers * PAPER["rank"], width)


def test_a_linear_attacker_reads_embeddings_and_gets_little_from_noise(setting, passages):
    """Rows that are the tokens' own embeddings are read whole; rows that have nothing to do with them are not."""
    table = embedding_table(setting.base.model).detach()
    draw = torch.Generator().manual_seed(0)
    clear = [Held(one, table[list(one.ids)].half(), list(one.ids), [1] * len(one.ids)) for one in passages]
    unrelated = [Held(one.passage, torch.randn(one.rows.shape, generator=draw).half(), one.read, one.sizes) for one in clear]

    def right(held, name):
        attacker = build_attacker(name, table, steps=1, seed=0, device="cpu")
        attacker.fit(held[:-6], nothing)
        hits = [got == token for one in held[-6:] for got, token in zip(attacker.read(one), one.read, strict=True)]
        return sum(hits) / len(hits)

    assert right(clear, "nearest") == 1.0
    assert right(clear, "linear") > 0.9
    assert right(unrelated, "linear") < 0.3


def test_the_trained_decoder_learns_more_than_its_linear_start(setting, passages):
    held = held_by_engine(setting, Dial(), passages)
    table = embedding_table(setting.base.model)
    own, unseen = held[:-6], held[-6:]

    def tokens(name, steps):
        attacker = build_attacker(name, table, steps=steps, seed=0, device="cpu", width=32)
        attacker.fit(own, nothing)
        return sum(shares(one.passage, attacker.read(one), "", lambda token: False)["tokens"] for one in unseen) / len(unseen)

    assert tokens("decoder", 30) > tokens("linear", 1)
    assert tokens("decoder", 3) == tokens("decoder", 3)
    assert tokens("decoder_shuffled", 3) > 0


@pytest.mark.parametrize("name", ["linear", "decoder"])
def test_adapters_whose_rows_are_no_tokens_are_read_too(setting, passages, name):
    """A LoRA that holds which words a passage has, hidden behind a fixed random map, is read back."""
    draw = torch.Generator().manual_seed(0)
    table = embedding_table(setting.base.model)
    hide = torch.randn(len(table), 64, generator=draw)

    def held(one: Passage) -> Held:
        holds = torch.zeros(len(table))
        holds[list(one.ids)] = 1
        return Held(one, (holds @ hide).view(4, 16).half(), list(one.ids), None)

    made = [held(one) for one in passages]
    attacker = build_attacker(name, table, steps=40, seed=0, device="cpu", width=32)
    attacker.fit(made[:-6], nothing)
    rare = rare_tokens([one.ids for one in passages])
    read = [attacker.read(one) for one in made[-6:]]
    own = sum(shares(one.passage, ids, "", rare)["tokens"] for one, ids in zip(made[-6:], read, strict=True))
    others = sum(shares(one.passage, ids, "", rare)["tokens"] for one, ids in zip(made[-6:], read[1:] + read[:1], strict=True))
    assert own > others > 0


def test_shares_are_those_worked_by_hand(setting):
    passage = Passage("Anna lives in Oakport.", (1, 2, 2, 3), ())
    found = shares(passage, [2, 2, 2, 9], "she lives in Oakport now", lambda token: token == 3)
    assert found["tokens"] == 0.5  # both 2s, and no third one
    assert found["rare_tokens"] == 0.0
    assert found["names_and_numbers"] == 1.0  # a sentence's first word counts as no name
    assert found["rouge1"] == 0.75 and found["rouge2"] == pytest.approx(2 / 3)
    assert summary([{"tokens": 0.0}, {"tokens": 1.0}])["tokens"]["mean"] == 0.5


def test_templated_questions_hide_a_fact_and_ask_for_it():
    text = "The deposit is $2,680. Maria Lindgren starts on 1 March 2026 as a nurse in Oakport."
    pairs = dict(templated_questions(text))
    assert set(pairs.values()) == {"$2,680", "1 March 2026", "Oakport", "Maria Lindgren"}
    for question, answer in pairs.items():
        assert BLANK in question and answer not in question
    assert telling_words(text)[:3] == ["2,680", "Maria", "Lindgren"]


def test_a_passage_always_has_the_same_noise():
    rows = torch.randn(8, 4)
    assert torch.equal(noisy(rows, 0.5, "a"), noisy(rows, 0.5, "a"))
    assert not torch.equal(noisy(rows, 0.5, "a"), noisy(rows, 0.5, "b"))
    assert torch.equal(noisy(rows, 0.0, "a"), rows)


def test_one_dial_is_turned_at_a_time():
    found = dials(["state", "paper"], [8, 16], [1.0, 0.35], [0.0], ["int8", "float16"])
    assert found == [
        Dial("state", 8),
        Dial("state", 16),
        Dial("state", 8, rows=0.35),
        Dial("state", 8, precision="float16"),
        Dial("paper"),
    ]


def test_a_run_writes_its_report_and_goes_on(dprag, tiny_prepared_folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"documents": [{"title": "", "text": text}], "question": "Who?", "answers": ["Anna"]} for text in TEXTS[:12]]
    data.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "audit"
    command = ("audit", "--data", data, "--out", out, "--base", tiny_prepared_folder, "--steps", 2, "--questioned", 1)
    assert dprag(*command, "--attackers", "linear")[0] == 0
    first = json.loads((out / "report.json").read_text())["rows"]
    code, printed, _ = dprag(*command, "--methods", "state,rag", "--rows", 1.0, "--rows", 0.4)
    assert code == 0 and "rows 0.4" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["rows"][0] == first[0]  # not measured again
    by_name = {(row["name"], row["attacker"]): row for row in report["rows"]}
    assert ("rag", "questions") in by_name and ("rag", "linear") not in by_name
    assert {attacker for name, attacker in by_name if name == "state, layer 1"} == {
        "nearest", "linear", "decoder", "decoder_shuffled", "repeat", "questions"
    }  # fmt: skip
    scores = by_name["state, layer 1", "linear"]
    assert scores["scores"]["tokens"]["n"] == 6 and 0 <= scores["chance"]["tokens"] <= 1
    assert {"command", "seed", "n", "pairs", "weights"} <= report["config"].keys()
    assert TEXTS[0] not in (out / "report.json").read_text()
    assert "What an adapter gives away" in (out / "report.html").read_text()


@pytest.mark.parametrize("arguments, message", [
    (["--methods", "paper"], "--generator"),
    (["--attackers", "guess"], "unknown attacker"),
    (["--layer", 9], "layers 0 to 2"),
    (["--noise", -1], "--noise"),
])  # fmt: skip
def test_a_wrong_option_is_named(dprag, tiny_prepared_folder, tmp_path, arguments, message):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"documents": [{"title": "", "text": TEXTS[0]}], "question": "Who?", "answers": ["Anna"]}))
    code, _, error = dprag("audit", "--data", data, "--out", tmp_path / "out", "--base", tiny_prepared_folder, *arguments)
    assert code == 1 and message in " ".join(error.split())
