"""Answering: time to the first token and to the last, against plain RAG by the same engine, in one process.

    rag               the passages in plain text
    exact             all rows, the passages encoded when they were indexed
    chosen            the rows of the sentences that the question needs (0.35), encoded likewise
    exact_unencoded, chosen_unencoded   nothing was encoded before

Counted is all that happens between question and answer once the passages are found: choosing sentences, building the prompt,
reading or making states, their way to bytes and back, the engine's prefill and steps. No network.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from measuring import Asked, Spent, Watch, medians, questions, ratio

from distilledprag.engine.batch import DecodingBatch
from distilledprag.evaluation.metrics import best_token_scores, squad_scores
from distilledprag.generators.kept_states import KeptStates
from distilledprag.lora.states import StateAdapter
from distilledprag.pipeline import DistilledPRAG

ROWS = 0.35
MOST = 32  # tokens of an answer
WAYS = ("rag", "exact", "chosen", "exact_unencoded", "chosen_unencoded")


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Rows and ratios of every way over 60 questions (`quick`: 8), and by number of passages."""
    with tempfile.TemporaryDirectory() as folder:
        prag.states.kept = KeptStates(folder)
        try:
            asked = questions(8 if quick else 60)
            ways = _ways(prag, asked, WAYS)
            growth = []
            for count in (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32, 64):
                found = _ways(prag, questions(2 if quick or count > 8 else 4, count), ("rag", "exact", "chosen"))
                growth += [{"passages": count, "way": name, **one["row"]} for name, one in found.items()]
        finally:
            prag.states.kept.close()
            prag.states.kept = None
    against = ways["rag"]
    ratios = {}
    for name, one in ways.items():
        if name != "rag":
            ratios[f"first token, {name} / rag"] = ratio(one["first"], against["first"])
            ratios[f"whole answer, {name} / rag"] = ratio(one["total"], against["total"])
    rows = [{"way": name, **one["row"]} for name, one in ways.items()]
    targets = {}
    for when in ("first token", "whole answer"):
        targets |= {f"{when}, chosen / rag": 0.7, f"{when}, exact_unencoded / rag": 1.2, f"{when}, chosen_unencoded / rag": 1.2}
    return {"rows": rows, "growth": growth, "ratios": ratios, "at_most": targets}


def _ways(prag: DistilledPRAG, asked: Sequence[Asked], names: Sequence[str]) -> dict[str, Any]:
    batch = DecodingBatch(prag.base.model, prag.base.mask_token_id)
    kept = prag.states.kept
    assert kept is not None
    first: dict[str, list[Spent]] = {name: [] for name in names}
    total: dict[str, list[Spent]] = {name: [] for name in names}
    scores: dict[str, list[float]] = {name: [] for name in names}
    lengths: dict[str, list[int]] = {name: [] for name in names}
    _answer(prag, batch, asked[0], names[0])
    for number, one in enumerate(asked):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            if name.endswith("_unencoded"):
                kept.forget(one.passages)
            else:
                prag.states.keep(one.passages)
            soon, late, text, length = _answer(prag, batch, one, name)
            first[name].append(soon)
            total[name].append(late)
            scores[name].append(best_token_scores(text, one.answers, squad_scores).f1)
            lengths[name].append(length)
    found = {}
    for name in names:
        row = {"questions": len(asked), "prompt_tokens": statistics.median(lengths[name]), "f1": statistics.mean(scores[name])}
        row |= {f"first_token_{key}": value for key, value in medians(first[name]).items() if key != "runs"}
        row |= {f"answer_{key}": value for key, value in medians(total[name]).items() if key != "runs"}
        found[name] = {"row": row, "first": first[name], "total": total[name]}
    return found


def _answer(prag: DistilledPRAG, batch: DecodingBatch, one: Asked, way: str) -> tuple[Spent, Spent, str, int]:
    """What the first token and the whole answer took, the answer, and the prompt's tokens."""
    prompts, passages = prag.prompts, list(one.passages)
    watch, adapter = Watch(), None
    if way == "rag":
        prompt = prompts.build(one.question, passages).open_ids
    else:
        texts = passages
        if way.startswith("chosen"):
            texts = prag.choice.chosen(one.question, passages, ROWS)
        prompt = prompts.build(one.question, texts).masked_ids
        adapter = StateAdapter.from_bytes(prag.encode_states(texts, passages).to_bytes())
    token = int(batch.join([prompt], [adapter]).argmax())
    first, ids = watch.spent(), []
    while token != prompts.end_of_turn_id and len(ids) < MOST:
        ids.append(token)
        token = int(batch.step([token]).argmax())
    total = watch.spent()
    batch.clear()
    return first, total, prag.base.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(prompt)
