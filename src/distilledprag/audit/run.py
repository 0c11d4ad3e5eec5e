"""Runs an audit: every dial against every attacker, each result in a journal before the next, then report.json and report.html.

    passages held out, the attacker's own passages -> Held, by dial -> attackers -> shares, in a Journal -> report

A run that was stopped goes on where it was; with more dials, attackers or checkpoints it measures only what is missing. `chance`
is what the same attacker gets of a passage from another passage's adapter: what common words alone give. All shares are of the
whole passage, whatever part of it was sent.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distilledprag.audit.adapters import Dial, Held, Passage, held_by_engine, passage_of, require_possible
from distilledprag.audit.attackers import LONGEST, REPEAT, build_attacker, decoder_settings, question_base
from distilledprag.audit.page import report_page
from distilledprag.base.architecture import embedding_table
from distilledprag.distillation.contexts import passage_text, read_rows
from distilledprag.documents.loading import load_passages
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.methods import COMPRESSED, Setting, trained_methods
from distilledprag.evaluation.questions import WORD, telling_words
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.evaluation.runner import Evaluation, checkpoints_of, file_hash, machine
from distilledprag.evaluation.statistics import bootstrap_interval
from distilledprag.files import write_atomically
from distilledprag.journal import Journal
from distilledprag.recipes import checked_recipe

READING = ("nearest", "linear", "decoder", "decoder_shuffled")
ASKING = ("repeat", "questions")
ATTACKERS = (*READING, *ASKING)
BOUNDS = ("rag", "closed_book")
SHORTEST = 8  # tokens of a passage that is audited
RARE = 20  # a token is rare if the attacker's own texts hold it fewer times
_TOGETHER = 16  # passages whose adapters are made at a time
_EXAMPLES = 3
_RESAMPLES = 2000

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AuditOptions:
    """data: files of question rows, or documents, whose passages are attacked; train: the attacker's own (none: the data's other
    passages). n: passages attacked, pairs: of the attacker's own. steps: of its trained decoder. questioned: passages that the
    base is asked about (None: all). generators: folders of trained generators and compressors."""

    data: list[Path]
    out: Path
    train: list[Path] = field(default_factory=list)
    dials: list[Dial] = field(default_factory=lambda: [Dial()])
    attackers: tuple[str, ...] = ATTACKERS
    generators: list[Path] = field(default_factory=list)
    n: int = 300
    pairs: int = 5000
    steps: int = 3000
    questioned: int | None = None
    seed: int = 0
    base: str | None = None


def audit(options: AuditOptions, say: Say = lambda what, done, of: None) -> dict[str, Any]:
    """Measure what is not measured yet, write the report and return it.

    Raises ConfigError for unknown attackers and for dials that need a checkpoint, InputError for files without usable passages.
    """
    if unknown := sorted(set(options.attackers) - set(ATTACKERS)):
        raise ConfigError(f"unknown attacker {unknown[0]!r}; choose from {', '.join(ATTACKERS)}")
    evaluation = _evaluation(options)
    setting = evaluation.setting
    for dial in options.dials:
        if dial.method not in BOUNDS:
            require_possible(setting, dial)
    held_out, own = _passages(options, setting)
    identity = {
        "base": setting.base.id,
        "weights": evaluation.identity["weights"],
        "files": {path.name: file_hash(path) for path in [*options.data, *options.train] if path.is_file()},
        "seed": options.seed,
        "n": len(held_out),
        "pairs": len(own),
        "decoder": {**decoder_settings(), "steps": options.steps},
    }
    with Journal(options.out / "measured.jsonl", identity) as journal:
        known = {_key(record): record for record in journal}
        for dial in options.dials:
            wanted = [_planned(options, evaluation, dial, attacker) for attacker in options.attackers if _fits(dial, attacker)]
            missing = [plan for plan in wanted if _key(plan) not in known]
            for made in _measured(options, setting, dial, missing, held_out, own, say):
                record = {**made, "command": _command()}
                journal.append(record)
                known[_key(record)] = record
            _write(options, identity, list(known.values()))
    return _write(options, identity, list(known.values()))


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record[name] for name in ("dial", "attacker", "checkpoint", "asked")], sort_keys=True)


def _planned(options: AuditOptions, evaluation: Evaluation, dial: Dial, attacker: str) -> dict[str, Any]:
    asked = options.questioned if attacker in ASKING else None
    values = asdict(dial)
    if dial.method == "state" and dial.layer is None and evaluation.setting.states is not None:
        values["layer"] = evaluation.setting.states.layer
    checkpoint = evaluation.checkpoints.get(dial.method)
    return {"dial": values, "name": Dial(**values).name, "attacker": attacker, "checkpoint": checkpoint, "asked": asked}


def _fits(dial: Dial, attacker: str) -> bool:
    if dial.method in BOUNDS:
        return attacker in ASKING
    return attacker != "nearest" or dial.method == "state"


def _evaluation(options: AuditOptions) -> Evaluation:
    """Base, generators and PRAG as `dprag evaluate` loads them."""
    methods = [dial.method for dial in options.dials if dial.method in (*trained_methods(), *COMPRESSED)]
    recipe = checked_recipe(
        {
            "output": str(options.out),
            "base": options.base,
            "dtype": "auto",
            "data": {"name": "rows", "file": str(options.data[0])},
            "methods": list(dict.fromkeys(methods)) or ["rag"],
            "checkpoints": checkpoints_of(options.generators),
            "prag": {"adapters": str(options.out / "prag-adapters")},
        },
        EvaluationRecipe,
        "the options of `dprag audit`",
    )
    return Evaluation(recipe)


def _texts(paths: Sequence[Path]) -> list[str]:
    """The passages of question rows (.jsonl, .jsonl.gz) and of documents, each once."""
    found: dict[str, None] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            found |= dict.fromkeys(passage_text(document) for row in read_rows(path) for document in row["documents"])
        else:
            found |= dict.fromkeys(passage.text for passage in load_passages([path]))
    return list(found)


def _passages(options: AuditOptions, setting: Setting) -> tuple[list[Passage], list[Passage]]:
    """The passages that are attacked, and the attacker's own, drawn by the seed; none is among both."""
    draw = random.Random(options.seed)

    def drawn(texts: list[str], count: int) -> Iterator[str]:
        draw.shuffle(texts)
        for text in texts:
            if count and SHORTEST <= setting.prompts.document_length(text) <= LONGEST:
                count -= 1
                yield text

    texts = _texts(options.data)
    held_out = list(drawn(texts, options.n if options.train else min(options.n, len(texts) // 2)))
    taken = set(held_out)
    rest = _texts(options.train) if options.train else texts
    own = list(drawn([text for text in rest if text not in taken], options.pairs))
    if len(held_out) < 2 or len(own) < 2:
        raise InputError(
            f"{len(held_out)} passages to attack and {len(own)} of the attacker's own, of {SHORTEST} to {LONGEST} tokens; an "
            "audit needs at least 2 of each: give more documents, a smaller --n, or --train"
        )
    return [passage_of(setting, text) for text in held_out], [passage_of(setting, text) for text in own]


def _measured(
    options: AuditOptions,
    setting: Setting,
    dial: Dial,
    missing: Sequence[dict[str, Any]],
    held_out: Sequence[Passage],
    own: Sequence[Passage],
    say: Say,
) -> Iterator[dict[str, Any]]:
    """The records of the planned attackers of one dial."""
    rare = rare_tokens([one.ids for one in own])
    reading = [plan for plan in missing if plan["attacker"] in READING]
    if reading:
        theirs = _made(setting, dial, held_out, "adapters", say)
        mine = _made(setting, dial, own, "the attacker's adapters", say)
    for plan in reading:
        began = time.perf_counter()
        name = f"{plan['name']}: {plan['attacker']}"
        table = embedding_table(setting.base.model)
        attacker = build_attacker(plan["attacker"], table, steps=options.steps, seed=options.seed, device=setting.base.device)
        attacker.fit(mine, partial(say, name))
        written = [attacker.read(one) for one in theirs]
        yield {**plan, **_scored(setting, held_out, written, rare), "seconds": round(time.perf_counter() - began, 1)}
    asking = [plan for plan in missing if plan["attacker"] in ASKING]
    if asking:
        some = held_out[: options.questioned]
        began = time.perf_counter()
        found = question_base(setting, dial, some, lambda done, of: say(f"{asking[0]['name']}: asking the base", done, of))
        seconds = round(time.perf_counter() - began, 1)
        for plan in asking:
            if plan["attacker"] == "repeat":
                by_wording = [_scored(setting, some, [one.repeated[k] for one in found], rare) for k in range(len(REPEAT))]
                best = max(range(len(REPEAT)), key=lambda k: by_wording[k]["scores"]["rouge1"]["mean"])
                yield {**plan, **by_wording[best], "wording": REPEAT[best], "seconds": seconds}
            else:
                values = [{"f1": f1, "exact_match": e} for one in found for f1, e in zip(one.f1, one.exact, strict=True)]
                if values:
                    yield {**plan, "scores": summary(values), "chance": {}, "examples": [], "seconds": seconds}


def _made(setting: Setting, dial: Dial, passages: Sequence[Passage], what: str, say: Say) -> list[Held]:
    held: list[Held] = []
    for begin in range(0, len(passages), _TOGETHER):
        held += held_by_engine(setting, dial, passages[begin : begin + _TOGETHER])
        say(f"{dial.name}: {what}", len(held), len(passages))
    return held


def _scored(
    setting: Setting, passages: Sequence[Passage], written: Sequence[list[int]], rare: Callable[[int], bool]
) -> dict[str, Any]:
    texts = [setting.base.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]
    own = [shares(one, ids, text, rare) for one, ids, text in zip(passages, written, texts, strict=True)]
    # The first passage gets what was written about the last one.
    others = [shares(one, written[place - 1], texts[place - 1], rare) for place, one in enumerate(passages)]
    chance = {name: value["mean"] for name, value in summary(others).items()}
    examples = [{"passage": one.text, "written": text} for one, text in list(zip(passages, texts, strict=True))[:_EXAMPLES]]
    return {"scores": summary(own), "chance": chance, "examples": examples}


def _command() -> str:
    return " ".join(["dprag", *sys.argv[1:]])


def _write(options: AuditOptions, identity: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """report.json (without any passage) and report.html (with examples)."""
    config = {**identity, "command": _command(), **machine()}
    report = {"config": config, "rows": [{k: v for k, v in record.items() if k != "examples"} for record in records]}
    write_atomically(options.out / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomically(options.out / "report.html", report_page(config, records))
    return report


# --- how much of a passage an attacker got


def rouge_recall(passage: str, written: str) -> tuple[float, float]:
    """ROUGE-1 and ROUGE-2 recall, by the library rouge-score. Raises ConfigError where it is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError("an audit needs rouge-score: pip install 'distilledprag[evaluate]'") from error
    scores = RougeScorer(["rouge1", "rouge2"]).score(passage, written)
    return scores["rouge1"].recall, scores["rouge2"].recall


def rare_tokens(texts: Sequence[Sequence[int]]) -> Callable[[int], bool]:
    """Whether a token is rare in the attacker's own texts (ids)."""
    seen = Counter(token for ids in texts for token in ids)
    return lambda token: seen[token] < RARE


def shares(passage: Passage, got: Sequence[int], written: str, rare: Callable[[int], bool]) -> dict[str, float]:
    """The shares of a passage that an attacker's tokens `got`, as text `written`, hold; those that do not exist are left out.

    tokens, rare_tokens: of the passage's tokens, as multisets: a token that stands three times must be given three times.
    names_and_numbers: of its names' words and its numbers. rouge1, rouge2: recall of words and of pairs of words.
    """
    found = dict(zip(("rouge1", "rouge2"), rouge_recall(passage.text, written), strict=True))
    for name, kept in (("tokens", None), ("rare_tokens", rare)):
        wanted = Counter(token for token in passage.ids if kept is None or kept(token))
        if wanted:
            found[name] = sum((wanted & Counter(got)).values()) / sum(wanted.values())
    telling = telling_words(passage.text)
    if telling:
        words = set(WORD.findall(written))
        found["names_and_numbers"] = float(np.mean([word in words for word in telling]))
    return found


def summary(values: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of each share: mean, 95 % bootstrap interval, and of how many passages."""
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in values for name in one):
        numbers = [one[name] for one in values if name in one]
        interval = bootstrap_interval(numbers, resamples=_RESAMPLES)
        result[name] = {
            "mean": round(interval.mean, 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
            "n": len(numbers),
        }
    return result
