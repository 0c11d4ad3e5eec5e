"""`make bench`: ways take turns, a ratio that got worse is told, and the page's tables say what was met."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import bench
import measuring
import performance_page


def part(first=0.5, throughput=1.0):
    machine = {"versions": {"torch": "2", "transformers": "5"}, "hardware": {"cores": 2, "processor": "x86_64", "threads": 2}}
    ratios = {
        "first token, chosen / rag": {"seconds": 9.0, "processor_seconds": first},
        "throughput": {"seconds": throughput, "processor_seconds": throughput},
    }
    rows = [{"way": "rag", "seconds": 1.25}]
    bounds = {"at_most": {"first token, chosen / rag": 0.7}, "at_least": {"throughput": 0.9}}
    return {
        "rows": rows,
        "growth": [],
        "ratios": ratios,
        **bounds,
        "quick": False,
        "load_before": 0.1,
        "took_seconds": 3,
        **machine,
    }


def test_each_way_runs_once_a_round_in_an_order_that_turns_and_warm_rounds_do_not_count():
    order = []
    ways = {name: lambda number, name=name: order.append((name, number)) for name in "ab"}
    spent = measuring.side_by_side(ways, rounds=2, warm=1)
    assert [name for name, _ in order] == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(times) for name, times in spent.items()} == {"a": 2, "b": 2}


def test_the_check_tells_ratios_that_got_worse_by_more_than_a_fourth_and_no_others():
    before = {"answer": part()}
    assert not bench.compared({"answer": part(0.6, 0.85)}, before)
    assert not bench.compared({"answer": part(0.1, 9.0)}, before)
    assert ["first token" in line for line in bench.compared({"answer": part(first=0.7)}, before)] == [True]
    assert ["throughput" in line for line in bench.compared({"answer": part(throughput=0.7)}, before)] == [True]
    assert not bench.compared({"a new part": part(9.0)}, before)


def test_questions_have_three_passages_of_some_120_words_one_of_which_holds_the_document():
    asked = measuring.questions(60)
    assert len({one.question for one in asked}) == 60
    for one in asked:
        assert len(one.passages) == 3 and all(80 <= len(text.split()) <= 120 for text in one.passages)


def test_the_page_has_every_part_and_says_which_target_was_missed(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- made by benchmarks/performance_page.py -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(performance_page, "PAGE", page)
    growing = part() | {"growth": [{"tokens": 64, "way": "encode", "seconds": 0.5}]}
    performance_page.write_page({"base": "tiny", "parts": {"answer": part(), "encode": growing}}, tmp_path / "bench.json")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| throughput | 1 | 1 | >= 0.9 | met |" in text and "| <= 0.7 | **missed** |" in text
    assert (tmp_path / "bench.png").stat().st_size > 1000
