"""Encoding: a passage through the lower layers, against plain RAG's prefill of it and a run over its whole prompt; keeping and
finding its states."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from measuring import medians, questions, ratio, side_by_side

from distilledprag.base.architecture import hidden_after
from distilledprag.base.llm import PassageEncoder, padded
from distilledprag.engine.batch import DecodingBatch
from distilledprag.generators.kept_states import KeptStates
from distilledprag.pipeline import DistilledPRAG


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """By tokens of a passage: encoding it, and eight at a time, keeping, finding, and the prefill of plain RAG."""
    text = " ".join(dict.fromkeys(passage for one in questions(60) for passage in one.passages))
    words = text.split()
    batch = DecodingBatch(prag.base.model, prag.base.mask_token_id)
    layer, space, growth, ratios = prag.states.layer, b"bench", [], {}
    encoder = PassageEncoder(prag.base, prag.prompts)

    def encode(passages: Sequence[str]) -> dict[str, torch.Tensor]:
        return encoder.states(encoder.tokenized(passages), [layer])[layer]

    @torch.inference_mode()
    def encode_whole(passages: Sequence[str]) -> None:
        """The opening of the prompt run again with each passage."""
        rows = [prag.prompts.context([passage]).open_ids for passage in passages]
        hidden_after(prag.base.model, [layer], input_ids=padded(rows, prag.prompts.end_of_turn_id, prag.base.device))

    with tempfile.TemporaryDirectory() as folder:
        kept = KeptStates(folder)
        for tokens in (64, 256) if quick else (64, 128, 256, 512, 1024, 2048):
            passage = " ".join(words[: int(tokens / 1.4)])
            states = encode([passage])
            prompt = prag.prompts.build("Where?", [passage]).open_ids

            def prefill(_: int, prompt: list[int] = prompt) -> None:
                batch.join([prompt], [None])
                batch.clear()

            ways = {
                "encode": lambda _, passage=passage: encode([passage]),
                "encode_whole": lambda _, passage=passage: encode_whole([passage]),
                "keep": lambda number, rows=states[passage], tokens=tokens: kept.write(space, {f"{tokens} {number}": rows}),
                "find": lambda number, tokens=tokens: kept.read(space, [f"{tokens} {number}"]),
                "rag_prefill": prefill,
            }
            spent = side_by_side(ways, 3 if quick else 7)
            count = len(states[passage])
            growth += [{"tokens": count, "way": name, **medians(times)} for name, times in spent.items()]
            ratios[f"encode / rag prefill, {tokens} tokens"] = ratio(spent["encode"], spent["rag_prefill"])
            ratios[f"encode / encode whole, {tokens} tokens"] = ratio(spent["encode"], spent["encode_whole"])
            ratios[f"find / encode, {tokens} tokens"] = ratio(spent["find"], spent["encode"])
        held = kept.kept()
        kept.close()
    for tokens in (60,) if quick else (60, 120, 240):
        size = int(tokens / 1.4)
        passages = [" ".join(words[begin : begin + size]) for begin in range(0, 8 * size, size)]
        spent = side_by_side(
            {"encode": lambda _, some=passages: encode(some), "encode_whole": lambda _, some=passages: encode_whole(some)},
            3 if quick else 15,
        )
        growth += [{"tokens": tokens, "way": f"{name}, 8 passages", **medians(times)} for name, times in spent.items()]
        ratios[f"encode / encode whole, 8 passages of {tokens} tokens"] = ratio(spent["encode"], spent["encode_whole"])
    bytes_a_token = round(held.bytes / max(1, sum(row["tokens"] * row["runs"] for row in growth if row["way"] == "keep")), 1)
    return {"rows": [{"bytes_a_token": bytes_a_token}], "growth": growth, "ratios": ratios, "at_most": {}}
