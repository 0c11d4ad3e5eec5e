"""A made-up file of question-answer pairs, as `dprag synthesize` writes them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

PEOPLE = {
    "Anna Tovberg": ("Oakport", "baker"),
    "Bram Keller": ("Dunburg", "engineer"),
    "Carla Rossi": ("Millport", "teacher"),
    "Dov Peretz": ("Ashford", "driver"),
    "Edith Lang": ("Ashhaven", "lawyer"),
    "Femi Okoro": ("Dunmouth", "nurse"),
}


def document(name: str) -> str:
    city, work = PEOPLE[name]
    return f"{name} lives in {city} and works as a {work}."


def write_pairs(folder: Path) -> Path:
    """Two questions about each person's document, and two about every two neighbours' documents together."""
    rows = []
    for name, (city, work) in PEOPLE.items():
        for question, answer in ((f"Where does {name} live?", city), (f"What is the work of {name}?", work)):
            rows.append({"documents": [document(name)], "question": question, "answer": answer, "kind": "single"})
    names = list(PEOPLE)
    for first, second in itertools.pairwise(names):
        for name in (first, second):
            row = {"documents": [document(first), document(second)], "question": f"Where does {name} live?"}
            rows.append({**row, "answer": PEOPLE[name][0], "kind": "cross"})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
