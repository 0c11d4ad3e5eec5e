"""Runs an evaluation recipe: every method on every question, one at a time (so that seconds are those of one user)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from distilledprag.base_model import load_base, weights_hash
from distilledprag.baselines import PragAdapters
from distilledprag.bundled import bundled_base, bundled_generator
from distilledprag.decoding import greedy_ids
from distilledprag.errors import ConfigError
from distilledprag.evaluation.machine import machine
from distilledprag.evaluation.methods import METHODS, NEEDS, Item, Setting, mask_row
from distilledprag.evaluation.metrics import best_exact_match, best_token_scores, containment
from distilledprag.evaluation.run.questions import Asked, load_questions, with_augmented
from distilledprag.evaluation.run.recipe import EvaluationRecipe
from distilledprag.evaluation.run.records import Record, Records
from distilledprag.evaluation.run.summary import recall_of, summarise
from distilledprag.generator import generator_identity, load_generator
from distilledprag.generator.mask_kind import mask_embedded_as
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
    done = 0
    for method in recipe.methods:
        for one, item in zip(asked, items, strict=True):
            if (method, one.key) not in records.done:
                records.add(answer(setting, method, one, item, recipe.answer_tokens))
            done += 1
            if on_question:
                on_question(done, len(asked) * len(recipe.methods))
    ordered = [records.done[method, one.key] for method in recipe.methods for one in asked]
    summary = {
        "config": {**identity, **machine()},
        "deviations": {method: style for method, style in recipe.styles.items() if method in recipe.methods},
        "retrieval": recall_of([one.recall for one in asked], recipe.top_k),
        **summarise(ordered, recipe.methods),
    }
    records.finish(summary)
    return summary


@torch.no_grad()
def answer(setting: Setting, method: str, one: Asked, item: Item, answer_tokens: int) -> Record:
    """One question's record. `seconds.prepare`: making the prompt and the adapter."""
    began = time.perf_counter()
    prompts, adapters = METHODS[method](setting, [item])
    prepared = time.perf_counter()
    with mask_embedded_as(setting.base, mask_row(setting, method)):
        ids = greedy_ids(setting.base, prompts, adapters, setting.prompts.end_of_turn_id, answer_tokens)[0]
    finished = time.perf_counter()
    text = setting.base.tokenizer.decode(ids, skip_special_tokens=True).strip()
    question, found = one.question, best_token_scores(text, one.question.answers)
    return {
        "method": method,
        "key": one.key,
        "id": question.id,
        "benchmark": question.benchmark,
        "subtask": question.subtask,
        "prompt": hashlib.sha256(repr(prompts[0]).encode()).hexdigest()[:16],
        "passages": [] if method == "closed_book" else one.passage_ids,
        "answer": text,
        "scores": {
            "exact_match": best_exact_match(text, question.answers),
            **found._asdict(),
            "containment": containment(text, question.answers),
        },
        "seconds": {"retrieve": one.retrieve_seconds, "prepare": prepared - began, "answer": finished - prepared},
        "tokens": {"prompt": len(prompts[0]), "answer": len(ids)},
    }


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(recipe.base or bundled_base(), device=device, dtype=getattr(torch, recipe.dtype))
    prompts, weights = PromptBuilder(base.tokenizer, base.mask_token_id), weights_hash(base.model)
    needed = dict.fromkeys(NEEDS[method] for method in recipe.methods if method in NEEDS)
    generators = {}
    for name in needed:
        checkpoint = recipe.checkpoints.get(name)
        if name == "prag":
            continue
        if checkpoint is None and name == "distilled_per_rank" and recipe.base is None:
            checkpoint = str(bundled_generator())
        if checkpoint is None:
            raise ConfigError(f"{name} needs a checkpoint: name its folder under `checkpoints`, or leave the method out")
        generators[name] = load_generator(checkpoint, base)
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
