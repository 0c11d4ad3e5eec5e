"""Runs an evaluation recipe: every method on every question, `batch_size` at a time, each answer in a journal before the next.

    recipe -> Setting (base, generators) and questions -> answers, in a Journal -> summary

A run that was killed, or has a larger limit or more methods than the run before, asks only what the journal does not hold.
A question for which nothing was retrieved is asked closed-book by every method. PRAG's fine-tuning is not in the seconds of a
question; it is counted apart, as `offline`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from distilledprag.base.default import default_base
from distilledprag import __version__
from distilledprag.base.llm import BaseLLM, chosen_device, greedy_ids, load_base, weights_hash
from distilledprag.base.prepared import RECORD, prepared_record
from distilledprag.baselines import PragAdapters
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import (
    CHOOSING,
    COMPRESSED,
    METHODS,
    Question,
    Setting,
    deviations,
    mask_row,
    passage_ids,
    prepare_adapters,
    require_architecture,
)
from distilledprag.evaluation.questions import load_questions, overlap_of
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.evaluation.summary import Answered, recall_of, scores_of, summarise
from distilledprag.files import write_atomically
from distilledprag.generators import generator_identity, load_generator
from distilledprag.generators.compressed import StateCompressor, load_compressor
from distilledprag.generators.interface import generator_names, mask_embedded_as, read_config
from distilledprag.generators.state import PlainPath, StateGenerator
from distilledprag.generators.cross_encoder import base_scorer
from distilledprag.journal import Journal
from distilledprag.packages import cache_folder
from distilledprag.prompts import PromptBuilder

QUESTION_TOKENS = 300  # of a prompt, left free for the question and the template when long passages are skipped

Progress = Callable[[str, int, int], None]


class Evaluation:
    """A recipe with its base and generators loaded; it can run other recipes that differ in their questions only.

    setting: what the methods work with. identity: what every answer depends on. Raises ConfigError when a method lacks its
    checkpoint, CheckpointError for a base or a checkpoint that cannot be used.
    """

    def __init__(self, recipe: EvaluationRecipe, say: Callable[[str], None] = lambda line: None) -> None:
        folder = Path(recipe.base or default_base(say)).expanduser()
        say("loading the base")
        dtype = None if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
        base = load_base(
            folder if folder.exists() else recipe.base or folder,
            device=chosen_device(),
            dtype=dtype,
        )
        prompts = PromptBuilder(base.tokenizer, base.mask_token_id, max_tokens=base.context_length - recipe.max_new_tokens)
        weights = _known_weights_hash(base, folder)
        self.setting = Setting(
            base,
            prompts,
            _generators(recipe, base),
            compressors=_compressors(recipe, base),
            prompt_variant=dict(recipe.prompt_variant),
            chosen_rows=recipe.chosen_rows,
            noise=recipe.noise,
            rows_sent_as=recipe.rows_sent_as,
            round_to=recipe.round_to,
        )
        self.checkpoints = {name: generator_identity(made) for name, made in self.setting.generators.items()}
        self.checkpoints |= {name: made.identity for name, made in self.setting.compressors.items()}
        if "prag" in _needed(recipe):
            self.setting.prag = PragAdapters(base, prompts, recipe.prag.settings, weights, recipe.prag.adapters)
            self.checkpoints["prag"] = self.setting.prag.identity
        self.identity: dict[str, Any] = {"base": base.id, "weights": weights, "max_new_tokens": recipe.max_new_tokens}
        if recipe.dtype != "auto":
            self.identity["dtype"] = recipe.dtype
        if self.setting.prag and not recipe.prag.augmented and not recipe.prag.pairs:
            self.identity["prag_questions"] = f"{recipe.prag.templated} templated ones a passage"
        if (folder / RECORD).is_file():
            record = prepared_record(folder)
            layer = record.layer if recipe.layer is None else recipe.layer
            layers = base.model.config.num_hidden_layers
            if layer >= layers:
                raise ConfigError(f"layer {layer}: the base has layers 0 to {layers - 1}")
            self.setting.states = StateGenerator(base, prompts, layer, PlainPath.of(folder, record))
            self.setting.scorer = base_scorer(folder, base)
            if self.setting.scorer and set(recipe.methods) & set(CHOOSING):
                self.checkpoints["sentence_scorer"] = self.setting.scorer.identity
            self.identity |= {
                "layer": layer,
                "plain_layer": record.plain_layer,
                "chosen_rows": recipe.chosen_rows,
                "rows_sent_as": recipe.rows_sent_as,
            }
            if recipe.round_to > 1:
                self.identity["round_to"] = recipe.round_to
            if recipe.noise:
                self.identity["noise"] = recipe.noise

    def questions(self, recipe: EvaluationRecipe) -> list[Question]:
        """The recipe's questions; with `skip_long` those whose passages fit the prompt and the base's numbered masks."""
        return load_questions(recipe, self._fits if recipe.skip_long else None)

    def _fits(self, passages: Sequence[str]) -> bool:
        most = (self.setting.prompts.max_tokens or self.setting.base.context_length) - QUESTION_TOKENS
        if self.setting.states and self.setting.states.plain:
            most = min(most, len(self.setting.states.plain.numbered))
        return sum(self.setting.prompts.document_length(text) for text in passages) <= most

    def run(
        self,
        recipe: EvaluationRecipe,
        questions: Sequence[Question],
        file: Path,
        *,
        other_run: Literal["refuse", "restart"] = "refuse",
        on_progress: Progress = lambda method, done, of: None,
    ) -> dict[str, list[Answered]]:
        """Answer what the journal `file` does not hold yet; all answers by method, in the order of the questions.

        other_run: what to do with a journal of another base or other settings. on_progress: called with (method, done, all)
        after each batch. Raises ConfigError for a journal that is refused, or whose answers are to other questions or of
        other checkpoints.
        """
        with Journal(file, self.identity | _draw(recipe), other_run) as journal:
            known: dict[tuple[str, int], Answered] = {}
            for number, record in enumerate(journal, start=1):
                answered = _answered(record, file, number)
                known[answered.method, answered.index] = answered
            for method in recipe.methods:
                for one in questions:
                    answered_before = known.get((method, one.index))
                    if answered_before and answered_before.asked not in ("", self._asked(method, one)):
                        raise ConfigError(
                            f"{file} holds {method}'s answer to another question {one.index}, or with another checkpoint; choose "
                            "another output"
                        )
            for method in recipe.methods:
                missing = [one for one in questions if (method, one.index) not in known]
                done = len(questions) - len(missing)
                for batch in batches(missing, recipe.batch_size):
                    made = self.answer(method, batch, recipe)
                    journal.append(*map(asdict, made))
                    known |= {(method, one.index): one for one in made}
                    done += len(batch)
                    on_progress(method, done, len(questions))
        return {
            method: [_described(known[method, one.index], one, recipe.metric) for one in questions] for method in recipe.methods
        }

    @torch.no_grad()
    def answer(self, method: str, batch: Sequence[Question], recipe: EvaluationRecipe) -> list[Answered]:
        """Answer questions together."""
        setting = self.setting
        run = method if batch[0].passages else "closed_book"
        offline = prepare_adapters(setting, run, batch)
        began = time.perf_counter()
        prepared = METHODS[run](setting, batch)
        between = time.perf_counter()
        with mask_embedded_as(setting.base, mask_row(setting, run)):
            made = greedy_ids(
                setting.base,
                prepared.prompts,
                prepared.adapters,
                setting.prompts.end_of_turn_id,
                recipe.max_new_tokens,
                states=prepared.states,
            )
        ended = time.perf_counter()
        answers = []
        for place, one in enumerate(batch):
            text = setting.base.tokenizer.decode(made[place], skip_special_tokens=True).strip()
            answered = Answered(
                method=method,
                index=one.index,
                text=text.split("\n")[0].strip() if recipe.first_line else text,
                adapter_bytes=prepared.adapter_bytes[place],
                prompt_tokens=len(prepared.prompts[place]),
                rows=prepared.rows[place],
                seconds=round((ended - began) / len(batch), 4),
                answer_tokens=len(made[place]),
                prepare_seconds=round((between - began) / len(batch), 4),
                retrieve_seconds=0.0 if method == "closed_book" else one.retrieve_seconds,
                asked=self._asked(method, one),
                prompt=hashlib.sha256(repr(prepared.prompts[place]).encode()).hexdigest()[:16],
                passages=passage_ids(prepared.read[place]),
                offline=offline if place == 0 else {},
            )
            answers.append(_described(answered, one, recipe.metric))
        return answers

    def _asked(self, method: str, question: Question) -> str:
        """16 hex digits of the question with its passages, the method's checkpoint and its kind of prompt."""
        checkpoint = self.checkpoints.get(METHODS[method].needs or "", "")
        if method in CHOOSING:
            checkpoint += self.checkpoints.get("sentence_scorer", "")
        variant = deviations(self.setting, [method]).get(method, "")
        return hashlib.sha256(repr((question.hash, checkpoint, variant)).encode()).hexdigest()[:16]


def evaluate(recipe: EvaluationRecipe, on_progress: Progress = lambda method, done, of: None) -> dict[str, Any]:
    """Run what is not done yet, write the summary and return it. Errors as in `Evaluation` and its `run`.

    `questions.jsonl` in the recipe's output holds a line for each question and method, `summary.json` the rest.
    """
    evaluation = Evaluation(recipe)
    questions = evaluation.questions(recipe)
    answers = evaluation.run(recipe, questions, recipe.output / "questions.jsonl", on_progress=on_progress)
    digest = hashlib.sha256("".join(one.hash for one in questions).encode()).hexdigest()[:16]
    summary = {
        "config": {
            "recipe": recipe.model_dump(mode="json", exclude={"output"}),
            "base": {**evaluation.setting.base.identity.to_dict(), "weights": evaluation.identity["weights"]},
            "checkpoints": evaluation.checkpoints,
            "questions": digest,
            **machine(),
        },
        "deviations": deviations(evaluation.setting, recipe.methods),
        "retrieval": recall_of([one.recall for one in questions], recipe.top_k),
        **overlap_of(recipe.training_pairs, questions),
        **summarise(answers),
    }
    write_atomically(recipe.output / "summary.json", json.dumps(summary, indent=1, default=str) + "\n")
    return summary


def checkpoints_of(folders: Sequence[Path]) -> dict[str, str]:
    """Method -> folder, by what each checkpoint says of itself. Raises ConfigError for one that serves no method, or the same."""
    found: dict[str, str] = {}
    for folder in folders:
        config = read_config(folder)
        name = config["architecture"]
        ratios = config["settings"].get("ratios", ())
        served = [name] if name in generator_names() else [method for method, ratio in COMPRESSED.items() if ratio in ratios]
        if not served:
            raise ConfigError(f"{folder} holds a generator of architecture {name}, which no method is measured with")
        for method in served:
            if method in found:
                raise ConfigError(f"{folder} and {found[method]} are both for {method}; name one of them")
            found[method] = str(folder)
    return found


def batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Questions to answer together: with and without passages apart, and for a size above 1 those of similar length."""
    ordered = list(questions)
    if size > 1:
        ordered.sort(key=lambda one: (bool(one.passages), sum(map(len, one.passages))))
    for _, alike in itertools.groupby(ordered, key=lambda one: bool(one.passages)):
        group = list(alike)
        yield from (group[begin : begin + size] for begin in range(0, len(group), size))


def file_hash(path: Path) -> str:
    """12 hex digits of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def machine() -> dict[str, Any]:
    """`versions` and `hardware` of this process."""
    versions = {"distilledprag": __version__}
    versions |= {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    hardware = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["accelerator"] = torch.cuda.get_device_name()
    return {"versions": {**versions, "python": platform.python_version()}, "hardware": hardware}


def _needed(recipe: EvaluationRecipe) -> list[str]:
    """The trained methods that the recipe's methods need."""
    return list(dict.fromkeys(need for method in recipe.methods if (need := METHODS[method].needs) not in (None, "states")))


def _generators(recipe: EvaluationRecipe, base: BaseLLM) -> dict[str, Any]:
    known = (*generator_names(), *COMPRESSED)
    if unknown := sorted(set(recipe.checkpoints) - set(known)):
        raise ConfigError(f"checkpoints names {unknown[0]!r}, which takes none; choose from {', '.join(known)}")
    return {
        name: require_architecture(name, load_generator(_checkpoint(recipe, name), base))
        for name in _needed(recipe)
        if name in generator_names()
    }


def _compressors(recipe: EvaluationRecipe, base: BaseLLM) -> dict[str, StateCompressor]:
    """By method. Raises ConfigError for a compressor that was not trained for a method's ratio."""
    loaded: dict[str, StateCompressor] = {}
    found = {}
    for name in _needed(recipe):
        if name in COMPRESSED:
            folder = _checkpoint(recipe, name)
            made = loaded[folder] = loaded.get(folder) or load_compressor(folder, base)
            if COMPRESSED[name] not in made.settings.ratios:
                raise ConfigError(f"{name}: the compressor in {folder} was trained for {made.settings.ratios} tokens a row")
            found[name] = made
    return found


def _checkpoint(recipe: EvaluationRecipe, name: str) -> str:
    if name not in recipe.checkpoints:
        raise ConfigError(
            f"{name} needs a checkpoint: name its folder with --generator (in a recipe, under `checkpoints`), or leave the "
            "method out"
        )
    return recipe.checkpoints[name]


def _draw(recipe: EvaluationRecipe) -> dict[str, Any]:
    """What decides which questions have which index, where they are drawn. Not the limit, so a run can be extended."""
    draws = [
        {"dataset": source.file.name.split(".")[0], "file": file_hash(source.file), "seed": source.seed}
        for source in recipe.sources
        if source.seed is not None
    ]
    return {"draws": draws} if len(draws) > 1 else dict(*draws)


def _answered(record: dict[str, Any], file: Path, number: int) -> Answered:
    try:
        return Answered(**record)
    except TypeError as error:
        raise InputError(f"{file}: record {number} is no answer ({error}); choose another output") from error


def _described(answered: Answered, question: Question, metric: str) -> Answered:
    """The answer with what the question says, and scored."""
    return replace(
        answered,
        id=question.id,
        dataset=question.dataset,
        type=question.type,
        documents=len(question.passages),
        scores=scores_of(answered.text, question.answers, metric),
    )


def _known_weights_hash(base: BaseLLM, folder: Path) -> str:
    """`weights_hash` of the base, computed once for a folder whose weight files do not change.

    Hashing reads all weights, half a minute for 8 billion of them.
    """
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.safetensors"))]
    key = hashlib.sha256(repr((files, str(base.model.dtype))).encode()).hexdigest()
    kept = cache_folder() / "weights-hashes" / key
    if files and kept.is_file():
        return kept.read_text().strip()
    made = weights_hash(base.model)
    if files:
        write_atomically(kept, made + "\n")
    return made
