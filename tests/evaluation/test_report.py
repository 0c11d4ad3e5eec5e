"""The report says what the runs measured, and marks what others published."""

from __future__ import annotations

import json

import pytest

from distilledprag.evaluation.report import PUBLISHED
from distilledprag.evaluation.summary import Answered, summarise


def answered(method, key, f1):
    kind, _, index = key.rpartition("/")
    scores = dict.fromkeys(("exact_match", "precision", "recall", "containment"), f1) | {"f1": f1}
    return Answered(method, int(index), "", 0, 9, 0, 0.3, type=kind, prepare_seconds=0.1, answer_tokens=2, scores=scores)


@pytest.fixture
def make_run(tmp_path):
    def make(name, f1):
        found = {method: [answered(method, key, value) for key, value in own.items()] for method, own in f1.items()}
        config = {
            "recipe": {"data": {"source": "benchmark", "name": "hotpotqa"}}, "base": {"weights": "abc"}, "checkpoints": {},
            "questions": "q", "hardware": {}, "versions": {},
        }  # fmt: skip
        summary = {"config": config, "deviations": {"prag": "question_only"}, "retrieval": {"k": 3}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({**summary, **summarise(found, 100)}))
        return tmp_path / name

    return make


def row(text, first):
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


F1 = {"rag": {"bridge/1": 1.0, "bridge/2": 0.5, "comparison/1": 0.0}, "prag": {"bridge/1": 0, "bridge/2": 0, "comparison/1": 1.0}}


def test_the_table_holds_the_subtasks_their_average_and_deviations(make_run, tmp_path, dprag):
    code, out, error = dprag("report", make_run("mine", F1), "--out", tmp_path / "report")
    assert code == 0, error
    text, page = ((tmp_path / "report" / f"report.{ending}").read_text() for ending in ("md", "html"))
    rag, prag = row(text, "rag |"), row(text, "prag (prompt: question_only)")
    assert rag == ["rag", "75.0", "0.0", "37.5", "0.300"] and prag[1:4] == ["0.0", "100.0", "50.0"]
    detailed = row(text.split("## hotpotqa: mine, token F1")[1], "rag |")
    assert detailed[1].startswith("75.0 (50.0 to 100.0)") and detailed[2].startswith("0.0") and detailed[3:] == ["37.5", "0.300"]
    assert "n = 3: 2 bridge, 1 comparison" in text and "<td>37.5" in page and "report.md" in out.replace("\n", "")
    assert row(text, "rag | prag")[2] == "+16.7"
    assert all((tmp_path / "report" / name).stat().st_size > 1000 for name in ("mine-f1.png", "f1-latency.png"))
    summary = json.loads((tmp_path / "report" / "mine.json").read_text())
    assert summary == json.loads((tmp_path / "mine" / "summary.json").read_text())


def test_published_numbers_stand_apart_and_are_named_so(make_run, tmp_path, dprag):
    dprag("report", make_run("mine", F1), "--out", tmp_path / "report")
    before, after = (tmp_path / "report" / "report.md").read_text().split("## Published numbers")
    assert "not measured by us" in after
    assert all("(published)" in line for line in before.splitlines() if line.startswith("|") and "Llama-3" in line)
    assert row(before, "prag, Llama-3-8B (published)")[-2:] == ["28.2", "1.18"]
    for published in PUBLISHED:
        assert f"| {published.base} | {published.method} | {published.f1:.1f} |" in after


def test_ablations_stand_beside_the_published_ones(make_run, tmp_path, dprag):
    values = (("full", 1.0), ("no-kl", 0.5), ("no-cosine-no-kl", 0.25))
    runs = [make_run(f"paper-{name}", {"paper": {"a/1": value}}) for name, value in values]
    runs.append(make_run("other-no-kl", {"other": {"a/1": 0.75}}))
    code, _, error = dprag("report", *runs, "--out", tmp_path / "report")
    assert code == 0, error
    text = (tmp_path / "report" / "report.md").read_text()
    assert row(text, "variant") == ["variant", "paper", "other", "published"]
    full, no_kl = row(text, "full"), row(text, "no-kl")
    assert full[1].startswith("100.0 (") and full[2:] == ["", "36.1"]
    assert no_kl[1].startswith("50.0 (") and no_kl[2].startswith("75.0 (") and no_kl[3] == "31.1"
    assert row(text, "no-cosine-no-kl")[1].startswith("25.0") and row(text, "no-cosine |")[1:] == ["", "", "34.7"]


def test_benchmarks_stand_side_by_side_and_splits_apart(make_run, tmp_path, dprag):
    second = make_run("second", {"rag": {"test/single-1/0": 1.0, "family/single-1/0": 0.5}})
    code, _, error = dprag("report", make_run("first", F1), second, "--out", tmp_path / "report")
    assert code == 0, error
    text = (tmp_path / "report" / "report.md").read_text()
    head, rag, prag = (row(text, start) for start in ("method", "rag |", "prag (prompt"))
    assert head[1] == "hotpotqa bridge" and [cell.split()[-1] for cell in head[1:5]] == [
        "bridge",
        "comparison",
        "test/single-1",
        "family/single-1",
    ]
    assert rag[1:6] == ["75.0", "0.0", "100.0", "50.0", "56.2"] and prag[3:6] == ["", "", ""]
    assert "## test: second, token F1" in text and "## family: second, exact match" in text
    assert all((tmp_path / "report" / f"second-{group}-f1.png").exists() for group in ("test", "family"))


def test_an_unfinished_run_and_another_file_are_messages(tmp_path, dprag):
    code, _, error = dprag("report", tmp_path, "--out", tmp_path / "report")
    assert code == 1 and "summary.json" in error
    (tmp_path / "summary.json").write_text("{}")
    code, _, error = dprag("report", tmp_path, "--out", tmp_path / "report")
    assert code == 1 and "not a summary" in error
