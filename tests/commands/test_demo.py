"""The demo tells by its exit code whether the model does what the demo shows."""

from __future__ import annotations

import json
import sys

import pytest

from distilledprag.commands import demo
from distilledprag.pipeline import Answer, Sent


class Scripted:
    """A stand-in for the model: right in the first `right` questions; without documents in the first `closed`."""

    def __init__(self, right, closed=0):
        rows = map(json.loads, (demo.EXAMPLES / "questions.jsonl").read_text().splitlines())
        self.answers = {row["question"]: (number, row["answer"]) for number, row in enumerate(rows)}
        self.right, self.closed = right, closed

    def _text(self, question, right):
        number, answer = self.answers[question]
        return answer if number < right else "wheat"

    def answer(self, question, retriever):
        return Answer(self._text(question, self.right), retriever.retrieve(question, 3), Sent("masked", 1, 7))

    def answer_closed_book(self, question):
        return self._text(question, self.closed)

    def answer_rag(self, question, texts):
        return self._text(question, 10)


@pytest.mark.parametrize("right, closed, expected", [(10, 0, 0), (8, 0, 0), (7, 0, 1), (9, 1, 1)])
def test_the_demo_fails_below_eight_right_answers_and_when_closed_book_has_one(
    dprag, monkeypatch, tmp_path, right, closed, expected
):
    monkeypatch.setattr(demo.DistilledPRAG, "from_pretrained", lambda: Scripted(right, closed))
    monkeypatch.setattr(demo, "_picture", lambda *_: None)
    code, out, err = dprag("demo", "--out", tmp_path)
    assert code == expected and f"{right} of 10" in out
    assert ("the demo did not work" in err) == bool(expected)
    if expected:
        assert f"{right} of 10 answers are right" in err and "Ask your own" not in out


def test_the_bundled_model_passes_its_demo_and_answers_the_first_question(dprag, tmp_path):
    code, out, _ = dprag("demo", "--out", tmp_path)
    assert code == 0 and "Ask your own" in out
    first = json.loads((demo.EXAMPLES / "questions.jsonl").read_text().splitlines()[0])
    assert f"answer: {first['answer']}" in out.split("2. ")[0]
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_the_hint_names_the_program_as_it_can_be_called_from_here(monkeypatch, tmp_path):
    program = tmp_path / ".venv" / "bin" / "dprag"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [".venv/bin/dprag", "demo"])
    assert demo.own_command() == ".venv/bin/dprag"
    monkeypatch.chdir(tmp_path / ".venv")
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    assert demo.own_command() == "bin/dprag"
    monkeypatch.setenv("PATH", str(program.parent))
    assert demo.own_command() == "dprag"
