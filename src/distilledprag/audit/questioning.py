"""The base itself as attacker: whoever holds base and adapter can put the adapter under any prompt and ask.

repeat     "Repeat the passage word for word." and the like; the wording that gets most counts
questions  templated questions about other facts of the passage than the one that was asked (and that chose the rows)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distilledprag.audit.adapters import Dial, Passage, loras_of, states_of
from distilledprag.decoding import greedy_ids
from distilledprag.evaluation.methods import Setting, trained_methods
from distilledprag.evaluation.metrics import best_exact_match, best_token_scores, squad_scores

REPEAT = (
    "Repeat passage 1 word for word.",
    "What does passage 1 say? Write down all of it.",
    "What are all the names, numbers and dates in passage 1?",
)
PASSAGES_TOGETHER = 8
ANSWER_TOKENS = 24

Progress = Callable[[int, int], None]


@dataclass
class Questioned:
    """repeated: for each wording of REPEAT the ids that the base wrote. f1, exact: of each question about another fact."""

    passage: Passage
    repeated: list[list[int]]
    f1: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)


def question_base(setting: Setting, dial: Dial, passages: Sequence[Passage], progress: Progress) -> list[Questioned]:
    """What the base says about each passage, with the passage's adapter (or, for `rag`, with its text) under the attacker's
    prompts."""
    found = []
    for begin in range(0, len(passages), PASSAGES_TOGETHER):
        some = passages[begin : begin + PASSAGES_TOGETHER]
        longest = max(len(one.ids) for one in some)
        repeated = [_asked(setting, dial, [(one, wording) for one in some], longest) for wording in REPEAT]
        for place, one in enumerate(some):
            found.append(Questioned(one, [repeated[number][place] for number in range(len(REPEAT))]))
        pairs = [(place, question, answer) for place, one in enumerate(some) for question, answer in one.questions[1:]]
        for first in range(0, len(pairs), PASSAGES_TOGETHER):
            group = pairs[first : first + PASSAGES_TOGETHER]
            answers = _asked(setting, dial, [(some[place], question) for place, question, _ in group], ANSWER_TOKENS)
            for (place, _, answer), ids in zip(group, answers, strict=True):
                said = setting.base.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0]
                found[begin + place].f1.append(best_token_scores(said, [answer], squad_scores).f1)
                found[begin + place].exact.append(best_exact_match(said, [answer]))
        progress(len(found), len(passages))
    return found


def _asked(setting: Setting, dial: Dial, pairs: Sequence[tuple[Passage, str]], most: int) -> list[list[int]]:
    """The base's continuation of each passage's prompt with each question, at most `most` tokens."""
    prompts, base, stop = setting.prompts, setting.base, setting.prompts.end_of_turn_id
    if dial.method in ("rag", "closed_book"):
        plain = [prompts.build(asked, [one.text] if dial.method == "rag" else []).open_ids for one, asked in pairs]
        return greedy_ids(base, plain, None, stop, most)
    if dial.method in trained_methods():
        masked = [prompts.build(asked, [one.text]).masked_ids for one, asked in pairs]
        return greedy_ids(base, masked, loras_of(setting, dial.method, [one for one, _ in pairs]), stop, most)
    adapters = [states_of(setting, dial, one)[0] for one, _ in pairs]
    masked = []
    for (_, asked), adapter in zip(pairs, adapters, strict=True):
        opening = prompts.context(["."])  # with one mask; the attacker writes as many as there are rows
        ids = [token for token in opening.masked_ids if token != prompts.mask_token_id]
        masked.append([*ids, *[prompts.mask_token_id] * adapter.count, *prompts.question(asked)])
    decoder = setting.compressors[dial.method].decoder_batch() if dial.method in setting.compressors else None
    return greedy_ids(base, masked, decoder, stop, most, states=adapters)
