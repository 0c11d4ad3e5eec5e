"""Encoding: a passage through the lower layers, against plain RAG's prefill of it; keeping and finding its states."""

from __future__ import annotations

import tempfile
from typing import Any

from measuring import medians, questions, ratio, side_by_side

from distilledprag.base.llm import passage_states
from distilledprag.engine.batch import DecodingBatch
from distilledprag.generators.kept_states import KeptStates
from distilledprag.pipeline import DistilledPRAG


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """By tokens of the passage: encoding, keeping, finding, and the prefill of plain RAG."""
    text = " ".join(dict.fromkeys(passage for one in questions(60) for passage in one.passages))
    words = text.split()
    batch = DecodingBatch(prag.base.model, prag.base.mask_token_id)
    layer, space, growth, ratios = prag.states.layer, b"bench", [], {}
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptStates(folder)
        for tokens in (64, 256) if quick else (64, 128, 256, 512, 1024, 2048):
            passage = " ".join(words[: int(tokens / 1.4)])
            states = passage_states(prag.base, prag.prompts, [passage], [layer])[layer]
            prompt = prag.prompts.build("Where?", [passage]).open_ids

            def prefill(_: int, prompt: list[int] = prompt) -> None:
                batch.join([prompt], [None])
                batch.clear()

            ways = {
                "encode": lambda _, passage=passage: passage_states(prag.base, prag.prompts, [passage], [layer]),
                "keep": lambda number, rows=states[passage], tokens=tokens: kept.write(space, {f"{tokens} {number}": rows}),
                "find": lambda number, tokens=tokens: kept.read(space, [f"{tokens} {number}"]),
                "rag_prefill": prefill,
            }
            spent = side_by_side(ways, 3 if quick else 7)
            count = len(states[passage])
            growth += [{"tokens": count, "way": name, **medians(times)} for name, times in spent.items()]
            ratios[f"encode / rag prefill, {tokens} tokens"] = ratio(spent["encode"], spent["rag_prefill"])
            ratios[f"find / encode, {tokens} tokens"] = ratio(spent["find"], spent["encode"])
        held = kept.kept()
        kept.close()
    bytes_a_token = round(held.bytes / max(1, sum(row["tokens"] * row["runs"] for row in growth if row["way"] == "keep")), 1)
    return {"rows": [{"bytes_a_token": bytes_a_token}], "growth": growth, "ratios": ratios, "at_most": {}}
