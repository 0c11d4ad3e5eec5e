"""Encoding: what a passage costs before it can be answered from, by size and against the methods that make an adapter of it.

By size: encoding (the opening run once, and anew with each passage), keeping and finding states, plain RAG's prefill. Of one
passage of 120 words: its states in int8, a PEFT adapter of the same (from states that are there), DyPRAG's translation, PRAG's
fine-tuning, each up to the bytes that are sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from alternatives import ON_THE_WAY, Alternatives
from measuring import medians, passages_of, questions, ratio, side_by_side

from distilledprag.base.architecture import hidden_after
from distilledprag.base.llm import PassageEncoder, padded
from distilledprag.engine.batch import DecodingBatch
from distilledprag.generators.kept_states import KeptStates
from distilledprag.lora.states import StateAdapter
from distilledprag.pipeline import DistilledPRAG

SIZES = (64, 128, 256, 512, 1024, 2048)  # tokens of a passage


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """By tokens of a passage, eight passages at a time, and one of 120 words by every method."""
    encoding = _Encoding(prag)
    growth, ratios, bytes_a_token = _by_size(encoding, (64, 256) if quick else SIZES, 3 if quick else 7)
    for tokens in (64,) if quick else (64, 128, 256):
        passages = passages_of(prag.base.tokenizer, tokens, 8)
        ways = {"encode": lambda _, some=passages: encoding(some), "encode whole": lambda _, some=passages: encoding.whole(some)}
        spent = side_by_side(ways, 3 if quick else 9)
        growth += [{"tokens": tokens, "way": f"{name}, 8 at a time", **medians(times)} for name, times in spent.items()]
        ratios[f"encode / encode whole, 8 passages of {tokens} tokens"] = ratio(spent["encode"], spent["encode whole"])
    rows, against = _by_method(encoding, 1 if quick else 3)
    rows.append({"way": "states kept on disk, a token", "adapter_bytes": bytes_a_token})
    return {"rows": rows, "growth": growth, "ratios": ratios | against, "at_most": {}}


class _Encoding:
    """A passage's states, by the encoder as it is and with the opening of the prompt run again."""

    def __init__(self, prag: DistilledPRAG) -> None:
        self.prag, self.layer = prag, prag.states.layer
        self._encoder = PassageEncoder(prag.base, prag.prompts)

    def __call__(self, passages: Sequence[str], layer: int | None = None) -> dict[str, torch.Tensor]:
        layer = self.layer if layer is None else layer
        return self._encoder.states(self._encoder.tokenized(passages), [layer])[layer]

    @torch.inference_mode()
    def whole(self, passages: Sequence[str]) -> None:
        rows = [self.prag.prompts.context([passage]).open_ids for passage in passages]
        ids = padded(rows, self.prag.prompts.end_of_turn_id, self.prag.base.device)
        hidden_after(self.prag.base.model, [self.layer], input_ids=ids)


def _by_size(encoding: _Encoding, sizes: Sequence[int], rounds: int) -> tuple[list[Any], dict[str, Any], float]:
    prag, space, growth, ratios, written = encoding.prag, b"bench", [], {}, 0
    batch = DecodingBatch(prag.base.model, prag.base.mask_token_id)
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptStates(folder)
        for tokens in sizes:
            (passage,) = passages_of(prag.base.tokenizer, tokens)
            states = encoding([passage])
            prompt = prag.prompts.build("Where?", [passage]).open_ids

            def prefill(_: int, prompt: list[int] = prompt) -> None:
                batch.join([prompt], [None])
                batch.clear()

            ways = {
                "plain RAG's prefill": prefill,
                "encode": lambda _, passage=passage: encoding([passage]),
                "encode whole": lambda _, passage=passage: encoding.whole([passage]),
                "keep": lambda number, rows=states[passage], tokens=tokens: kept.write(space, {f"{tokens} {number}": rows}),
                "find": lambda number, tokens=tokens: kept.read(space, [f"{tokens} {number}"]),
            }
            spent = side_by_side(ways, rounds)
            growth += [{"tokens": tokens, "way": name, **medians(times)} for name, times in spent.items()]
            written += len(states[passage]) * rounds
            ratios[f"encode / rag prefill, {tokens} tokens"] = ratio(spent["encode"], spent["plain RAG's prefill"])
            ratios[f"encode / encode whole, {tokens} tokens"] = ratio(spent["encode"], spent["encode whole"])
            ratios[f"find / encode, {tokens} tokens"] = ratio(spent["find"], spent["encode"])
        held = kept.kept()
        kept.close()
    return growth, ratios, round(held.bytes / written, 1)


def _by_method(encoding: _Encoding, rounds: int) -> tuple[list[Any], dict[str, Any]]:
    prag, plain = encoding.prag, encoding.prag.states.plain
    texts = [one.passages[0] for one in questions(rounds, 1)]
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        others = Alternatives(prag, Path(folder))
        plain_states = encoding(texts, plain.layer) if plain else {}

        def states(number: int) -> None:
            rows = encoding([texts[number]])[texts[number]]
            sizes["states"] = len(StateAdapter(rows.float(), encoding.layer, prag.base.identity).to_bytes())

        def peft(number: int) -> None:
            rows = plain_states[texts[number]].float()
            sizes["peft"] = len(prag.states.lora_of(rows, [len(rows)]).to(dtype=ON_THE_WAY).to_bytes())

        def dyprag(number: int) -> None:
            sizes["dyprag"] = len(others.translated([texts[number]]).to_bytes())

        def fine_tune(number: int) -> None:
            sizes["prag"] = len(others.fine_tuned(texts[number]).to(dtype=ON_THE_WAY).to_bytes())

        ways = {"states": states, "dyprag": dyprag, "prag": fine_tune} | ({"peft": peft} if plain else {})
        spent = side_by_side(ways, rounds)
    rows = [{"way": name, "adapter_bytes": sizes[name], **medians(times)} for name, times in spent.items()]
    ratios = {f"a passage of 120 words, states / {name}": ratio(spent["states"], spent[name]) for name in ("dyprag", "prag")}
    for name in [*ways][1:]:
        ratios[f"bytes of its adapter, states / {name}"] = {"bytes": round(sizes["states"] / sizes[name], 3)}
    return rows, ratios
