"""Runs an evaluation recipe: every method on every question, `batch` at a time (1: seconds are those of one user).

A question for which nothing was retrieved is asked closed-book by every method. PRAG's fine-tuning is not in the seconds of a
question; it is counted apart, as `offline`.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from distilledprag.base.llm import load_base, weights_hash
from distilledprag.baselines import PragAdapters
from distilledprag.decoding import greedy_ids
from distilledprag.errors import ConfigError
from distilledprag.evaluation.machine import machine
from distilledprag.evaluation.methods import (
    METHODS,
    NEEDS,
    Item,
    Setting,
    deviations,
    mask_row,
    prepare_adapters,
    require_architecture,
)
from distilledprag.evaluation.metrics import best_exact_match, best_token_scores, containment
from distilledprag.evaluation.questions import Asked, load_questions, overlap_of, passage_ids, with_augmented
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.evaluation.records import Record, Records
from distilledprag.evaluation.summary import recall_of, summarise
from distilledprag.generators import generator_identity, load_generator
from distilledprag.generators.interface import mask_embedded_as
from distilledprag.prompts import PromptBuilder

Report = Callable[[int, int], None]


def evaluate(recipe: EvaluationRecipe, on_question: Report | None = None) -> dict[str, Any]:
    """Run what is not done yet, write the summary and return it. on_question: called with (done, all) after each one.

    Raises ConfigError when a method lacks its checkpoint or the output folder holds another run.
    """
    setting, weights = _setting(recipe)
    asked = load_questions(recipe)
    if any(NEEDS.get(method) == "prag" for method in recipe.methods):
        asked = with_augmented(asked, recipe.prag)
    identity = {
        "recipe": recipe.model_dump(mode="json", exclude={"output"}),
        "base": {**setting.base.identity.to_dict(), "weights": weights},
        "checkpoints": _identities(recipe, setting),
        "questions": _questions_hash(asked),
    }
    records = Records(recipe.output, identity)
    items = _items(asked)
    done, total = 0, len(asked) * len(recipe.methods)
    for method in recipe.methods:
        missing = [pair for pair in zip(asked, items, strict=True) if (method, pair[0].key) not in records.done]
        done += len(asked) - len(missing)
        for batch in _batches(missing, recipe.batch):
            records.add(answer(setting, method, batch, recipe.answer_tokens))
            done += len(batch)
            if on_question:
                on_question(done, total)
    ordered = [records.done[method, one.key] for method in recipe.methods for one in asked]
    summary = {
        "config": {**identity, **machine()},
        "deviations": deviations(setting, recipe.methods),
        "retrieval": recall_of([one.recall for one in asked], recipe.top_k),
        **overlap_of(recipe.training_pairs, asked),
        **summarise(ordered, recipe.methods),
    }
    records.finish(summary)
    return summary


@torch.no_grad()
def answer(setting: Setting, method: str, batch: Sequence[tuple[Asked, Item]], answer_tokens: int) -> list[Record]:
    """The records of questions that are answered together. `seconds.prepare`: making the prompt and the adapter."""
    items = [item for _, item in batch]
    run = method if items[0].documents else "closed_book"
    offline = prepare_adapters(setting, run, items)
    began = time.perf_counter()
    prompts, adapters = METHODS[run](setting, items)
    prepared = time.perf_counter()
    with mask_embedded_as(setting.base, mask_row(setting, run)):
        made = greedy_ids(setting.base, prompts, adapters, setting.prompts.end_of_turn_id, answer_tokens)
    finished = time.perf_counter()
    seconds = {"prepare": (prepared - began) / len(batch), "answer": (finished - prepared) / len(batch)}
    records = []
    for (one, item), prompt, ids in zip(batch, prompts, made, strict=True):
        text = setting.base.tokenizer.decode(ids, skip_special_tokens=True).strip()
        right = one.question.answers
        scores = {"exact_match": best_exact_match(text, right), **best_token_scores(text, right)._asdict()}
        read = () if run == "closed_book" else item.other_documents if method.startswith("shuffled") else item.documents
        records.append({
            "method": method,
            "key": one.key,
            "id": one.question.id,
            "benchmark": one.question.benchmark,
            "subtask": one.question.subtask,
            "prompt": hashlib.sha256(repr(prompt).encode()).hexdigest()[:16],
            "passages": passage_ids(read),
            "answer": text,
            "scores": {**scores, "containment": containment(text, right)},
            "seconds": {"retrieve": 0.0 if method == "closed_book" else one.retrieve_seconds, **seconds},
            "tokens": {"prompt": len(prompt), "answer": len(ids)},
        })  # fmt: skip
    records[0]["offline"] = offline
    return records


def _batches(pairs: list[tuple[Asked, Item]], size: int) -> Iterator[list[tuple[Asked, Item]]]:
    """In order; questions without documents are not mixed with others."""
    for _, alike in itertools.groupby(pairs, key=lambda pair: bool(pair[1].documents)):
        group = list(alike)
        yield from (group[begin : begin + size] for begin in range(0, len(group), size))


def _items(asked: Sequence[Asked]) -> list[Item]:
    items = []
    for place, one in enumerate(asked):
        following = [*asked[place + 1 :], *asked[:place]]
        other = next((o for o in following if not set(o.texts) & set(one.texts)), None)
        other = other or next((o for o in following if o.texts != one.texts), one)
        main = one.question.answers[0]
        items.append(Item(one.question.question, main, one.texts, other.texts, one.augmented, other.augmented))
    return items


def _setting(recipe: EvaluationRecipe) -> tuple[Setting, str]:
    from distilledprag.base.default import default_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(recipe.base or default_base(), device=device, dtype=getattr(torch, recipe.dtype))
    prompts, weights = PromptBuilder(base.tokenizer, base.mask_token_id), weights_hash(base.model)
    needed = dict.fromkeys(NEEDS[method] for method in recipe.methods if method in NEEDS)
    generators = {}
    for name in needed:
        checkpoint = recipe.checkpoints.get(name)
        if name == "prag":
            continue
        if checkpoint is None:
            raise ConfigError(f"{name} needs a checkpoint: name its folder under `checkpoints`, or leave the method out")
        generators[name] = require_architecture(name, load_generator(checkpoint, base))
    if unknown := sorted(set(recipe.checkpoints) - {name for name in NEEDS.values() if name != "prag"}):
        raise ConfigError(f"checkpoints names {unknown[0]!r}, which takes none; see the list of methods")
    prag = PragAdapters(base, prompts, recipe.prag.settings, weights, recipe.prag.adapters) if "prag" in needed else None
    return Setting(base, prompts, generators, prag, dict(recipe.styles)), weights


def _identities(recipe: EvaluationRecipe, setting: Setting) -> dict[str, str]:
    found = {name: generator_identity(made) for name, made in setting.generators.items()}
    return {**found, "prag": setting.prag.identity} if setting.prag else found


def _questions_hash(asked: Sequence[Asked]) -> str:
    """Of all questions, right answers and passages, in order."""
    digest = hashlib.sha256()
    for one in asked:
        digest.update(repr((one.key, one.question.question, one.question.answers, one.texts)).encode())
    return digest.hexdigest()[:16]
