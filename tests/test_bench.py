"""`make bench`: ways take turns, a ratio that got worse is told, a part that fails loses nothing of the others, and the page's
tables say what was met."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import bench
import measuring
import performance_page
from measuring import Spent


def part(first=0.5, throughput=1.0, spread=0.0, growth=()):
    machine = {"versions": {"torch": "2", "transformers": "5"}, "hardware": {"cores": 2, "processor": "x86_64", "threads": 2}}
    ratios = {
        "first token, chosen / rag": {"seconds": 9.0, "processor_seconds": first, "spread": spread},
        "throughput": {"seconds": throughput, "processor_seconds": throughput, "spread": 0.0},
        "adapter, a passage": {"kB": 50.0},
    }
    return {
        "rows": [{"way": "rag", "seconds": 1.25}, {"way": "peft", "adapter_bytes": 120_000}],
        "growth": list(growth),
        "ratios": ratios,
        "at_most": {"first token, chosen / rag": 0.7, "adapter, a passage": 100},
        "at_least": {"throughput": 0.9},
        "base": "tiny",
        "device": "cpu",
        "quick": False,
        "load_before": 0.1,
        "took_seconds": 3,
        **machine,
    }


def run_bench(monkeypatch, *arguments, parts):
    """The exit code of `bench.py`; parts: name -> its figures, or the error that it ends with."""

    def measured(name, options):
        if isinstance(parts[name], Exception):
            raise parts[name]
        return parts[name]

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["bench.py", *parts, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    return int(ended.value.code)


def test_each_way_runs_once_a_round_in_an_order_that_turns_and_warm_rounds_do_not_count():
    order = []
    ways = {name: lambda number, name=name: order.append((name, number)) for name in "ab"}
    spent = measuring.side_by_side(ways, rounds=2, warm=1)
    assert [name for name, _ in order] == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(times) for name, times in spent.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_that_of_medians_and_its_spread_grows_with_the_rounds_differences():
    theirs = [Spent(2.0, 1.0)] * 5
    steady = measuring.ratio([Spent(1.0, 0.5)] * 5, theirs)
    assert steady == {"seconds": 0.5, "processor_seconds": 0.5, "spread": 0.0}
    near, far = ([Spent(1.0, 0.5 + step * place) for place in range(-2, 3)] for step in (0.05, 0.1))
    assert 0 < measuring.ratio(near, theirs)["spread"] < measuring.ratio(far, theirs)["spread"]


def test_the_check_tells_ratios_that_got_worse_by_more_than_a_fourth_and_no_others():
    before = {"answer": part()}
    assert not bench.compared({"answer": part(0.6, 0.85)}, before)
    assert not bench.compared({"answer": part(0.1, 9.0)}, before)
    assert ["first token" in line for line in bench.compared({"answer": part(first=0.7)}, before)] == [True]
    assert ["throughput" in line for line in bench.compared({"answer": part(throughput=0.7)}, before)] == [True]
    assert not bench.compared({"a new part": part(9.0)}, before)


def test_the_check_grants_what_the_ratio_may_be_off_by_chance():
    assert not bench.compared({"answer": part(first=0.7, spread=0.05)}, {"answer": part(spread=0.05)})
    assert bench.compared({"answer": part(first=0.8, spread=0.05)}, {"answer": part(spread=0.05)})


def test_a_check_ends_with_an_error_for_a_worse_ratio_only_and_writes_nothing(monkeypatch, tmp_path, capsys):
    result = tmp_path / "result.json"
    assert run_bench(monkeypatch, "--result", result, parts={"answer": part()}) == 0
    written = result.read_bytes()
    assert run_bench(monkeypatch, "--check", "--result", result, parts={"answer": part(first=0.6)}) == 0
    assert run_bench(monkeypatch, "--check", "--result", result, parts={"answer": part(first=0.9)}) == 1
    assert "answer: first token, chosen / rag: 0.9 (processor_seconds), was 0.5" in capsys.readouterr().out
    assert result.read_bytes() == written


def test_a_part_that_fails_loses_nothing_of_the_others(monkeypatch, tmp_path, capsys):
    result = tmp_path / "result.json"
    parts = {"encode": part(), "load": RuntimeError("no room"), "find": part(first=0.4)}
    assert run_bench(monkeypatch, "--result", result, parts=parts) == 1
    assert json.loads(result.read_text())["parts"] == {name: parts[name] for name in ("encode", "find")}
    assert "failed: load" in capsys.readouterr().err


def test_questions_have_three_passages_of_some_120_words_one_of_which_holds_the_document():
    asked = measuring.questions(60)
    assert len({one.question for one in asked}) == 60
    for one in asked:
        assert len(one.passages) == 3 and all(80 <= len(text.split()) <= 120 for text in one.passages)


@pytest.mark.parametrize("count", [1, 2, 33, 34, 64])
def test_a_question_has_as_many_different_passages_as_wanted(count):
    (asked,) = measuring.questions(1, count, 60)
    assert len(set(asked.passages)) == count and all(len(text.split()) >= 50 for text in asked.passages)


def test_the_page_has_every_part_and_says_which_target_was_missed(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- made by benchmarks/performance_page.py -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(performance_page, "PAGE", page)
    sizes = [
        {"tokens": tokens, "way": way, "seconds": tokens * share / 1000}
        for tokens in (64, 2048)
        for way, share in (("encode", 0.5), ("keep", 0.1))
    ]
    (tmp_path / "bench-other.json").write_text(json.dumps({"parts": {"encode": part() | {"base": "llama"}}}))
    performance_page.write_page({"parts": {"answer": part(), "encode": part(growth=sizes)}}, tmp_path / "bench.json")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| throughput | 1 | 1 | >= 0.9 | met |" in text and "| <= 0.7 | **missed** |" in text
    assert "| adapter, a passage | 50 kB |  | <= 100 | met |" in text
    assert "| tokens | encode | keep |" in text and "| 2,048 | 1.02 s | 205 ms |" in text
    assert "| peft |  | 120 kB |" in text and "### encode, llama, cpu" in text
    assert (tmp_path / "bench.png").stat().st_size > 1000
