"""The tokenizer of the bundled base model: byte-level BPE over the words of the record world and the prompt template.

Digits come in groups of at most two (years stay whole), so numbers share few, well-trained tokens; whole words of the
templates are one token, composed names are the parts they are made of. Every byte has a token: any text can be encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distilledprag.prompts.builder import ANSWER_PREFIX, INSTRUCTION, INSTRUCTION_CLOSED_BOOK
from distilledprag.synthesis.world import names
from distilledprag.synthesis.world.families import families

END_TOKEN = "<|end|>"
PAD_TOKEN = "<|pad|>"
PLACE_HOLDER = re.compile(r"\{[a-z]\}")
PIECES = r" ?(?:19|20)\d\d(?!\d)| ?\d{1,2}|,000| ?\p{L}+|'s|\.com| ?[^\s\p{L}\p{N}]+|\s+"


def _corpus() -> Iterator[str]:
    """Every word that the training split can contain, once each, and the parts that names are composed of.

    Held-out templates and the held-out family are left out: their new words are spelled in pieces, as a user's are.
    """
    for family in families().values():
        if family.held_out:
            continue
        for sentence in (*family.titles, *family.nouns, *family.fillers):
            yield f" {sentence[:1].upper()}{sentence[1:]}"
            yield f" {sentence}"
        for attribute in family.attributes.values():
            comparisons = tuple((attribute.compare or {}).values())
            for template in (*attribute.say, *attribute.ask, *comparisons, attribute.noun, attribute.describe or ""):
                yield " " + PLACE_HOLDER.sub(".", template)
    for start, end in names.STEMS.values():
        for part in (*start, *end):
            yield from (f" {part}", part.lower())
    for text in (
        *names.WOMEN,
        *names.MEN,
        *names.SECTORS,
        *names.STREETS,
        *names.HOUSES,
        *names.MONTHS,
        *names.MAILBOXES,
    ):
        yield f" {text}"
    for values in names.LISTS.values():
        yield from (f" {value}" for value in values)
    for number in range(100):
        yield f" {number} {number:02d}"
        yield f"{number:02d}"
    yield from (f" {year}" for year in range(1950, 2026))
    yield from (f" {letter}" for letter in names.LETTERS)
    yield " She Her He His It Its she her him it its the The an a Street Project Contract Incident months MV"
    yield from (" $", ",000", "'s", "@", ".com", "-", "?", ".", ",")
    yield f"{INSTRUCTION} {INSTRUCTION_CLOSED_BOOK}\nPassage 1: 2: 3:\n\nQuestion:\n{ANSWER_PREFIX} Passage Question You The"


def _words(texts: Iterable[str]) -> Iterator[str]:
    splitter = pre_tokenizers.Split(Regex(PIECES), "isolated")
    for text in texts:
        yield from (piece for piece, _ in splitter.pre_tokenize_str(text))


def train_tokenizer(*, vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with at most `vocabulary` tokens; `context`: its `model_max_length`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_TOKEN, PAD_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(2 * sorted(set(_words(_corpus()))), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
