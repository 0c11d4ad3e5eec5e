"""The demo tells by its exit code whether the model does what the demo shows."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

import pytest

from distilledprag.cli import demo
from distilledprag.pipeline import Answer, Sent


@dataclass
class Scripted:
    """A stand-in for the model: right in the first `right` questions; without documents in the first `closed`."""

    right: int
    closed: int = 0
    rag: int = 10
    answers: dict = field(default_factory=dict)

    def __post_init__(self):
        rows = map(json.loads, (demo.EXAMPLES / "questions.jsonl").read_text().splitlines())
        self.answers = {row["question"]: (number, row["answer"]) for number, row in enumerate(rows)}

    def _text(self, question, right):
        number, answer = self.answers.get(question, (99, ""))
        return answer if number < right else "wheat"

    def answer(self, question, documents=None, *, retriever=None):
        passages = retriever.retrieve(question, 3) if retriever else []
        return Answer(self._text(question, self.right), passages, Sent("masked", 5, 1, 7))

    def answer_closed_book(self, question):
        return self._text(question, self.closed)

    def answer_rag(self, question, texts):
        return self._text(question, self.rag)


@pytest.mark.parametrize(
    "right, closed, rag, expected", [(10, 0, 10, 0), (9, 0, 10, 0), (8, 0, 9, 0), (8, 0, 10, 1), (8, 0, 8, 1), (9, 1, 10, 1)]
)
def test_the_demo_fails_when_rag_or_ours_is_too_weak_or_closed_book_has_one(dprag, monkeypatch, right, closed, rag, expected):
    monkeypatch.setattr(demo.DistilledPRAG, "from_pretrained", lambda **_: Scripted(right, closed, rag))
    code, out, err = dprag("demo")
    assert code == expected and f"{right} of 10" in out
    assert ("the demo did not work" in err) == bool(expected)
    assert ("Ask your own" in out) != bool(expected)


def test_the_default_base_passes_its_demo_and_answers_the_first_question(dprag, tmp_path, monkeypatch):
    """All ten questions over the documents, and two of the ten of SQuAD, which decide nothing."""
    for name in ("documents", "questions.jsonl"):
        (tmp_path / name).symlink_to(demo.EXAMPLES / name)
    lines = (demo.EXAMPLES / "squad_dev.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "squad_dev.jsonl").write_text("\n".join(lines[:2]), encoding="utf-8")
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path)
    code, out, _ = dprag("demo")
    assert code == 0 and len(lines) == 10 and "Ask your own" in out and "Ten real questions" in out
    first = json.loads((tmp_path / "questions.jsonl").read_text().splitlines()[0])
    assert f"answer: {first['answer']}" in out.split("2. ")[0]


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
