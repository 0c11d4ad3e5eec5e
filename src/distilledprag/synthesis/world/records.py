"""Entities and the passages written about them. Knows nothing of questions."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from distilledprag.synthesis.world.families import Attribute, Family
from distilledprag.synthesis.world.names import WOMEN, Names, Value


@dataclass(frozen=True)
class Entity:
    """One person, company, contract ... with a value for every attribute of its family."""

    family: Family
    name: str
    values: dict[str, Value] = field(hash=False)

    def with_value(self, key: str, value: Value) -> Entity:
        return Entity(self.family, self.name, {**self.values, key: value})


@dataclass(frozen=True)
class Record:
    """A passage about one entity and the attributes that it states."""

    entity: Entity
    stated: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Style:
    """How passages are written. `facts`: least and most facts drawn per passage; a passage shorter than
    `fewest_words` gets more. The rest are probabilities; `rivals`: that all passages of an example of single facts are
    about the same family and state the same attributes, so that only the name tells them apart (for training)."""

    facts: tuple[int, int] = (3, 5)
    fewest_words: int = 20
    title: float = 0.3
    filler: float = 0.35
    by_name: float = 0.6
    by_noun: float = 0.2
    held_out_templates: bool = False
    rivals: float = 0.0


def draw_entity(names: Names, family: Family) -> Entity:
    """A new entity: a name and a value for each attribute."""
    values = {key: names.value(attribute.value) for key, attribute in family.attributes.items()}
    return Entity(family, getattr(names, family.name)(), values)


def with_article(text: str) -> str:
    """`a architect` -> `an architect`, `a a hernia` -> `a hernia`."""
    return re.sub(r"\ba (?=[aeiou])", "an ", re.sub(r"\ba (?=an? )", "", text))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def write(rng: random.Random, entity: Entity, style: Style, must_state: tuple[str, ...] = ()) -> Record:
    """Write a passage that states `must_state` and other attributes up to a random number of facts."""
    keys = list(entity.family.attributes)
    count = max(len(must_state), min(len(keys), rng.randint(*style.facts)))
    others = [key for key in keys if key not in must_state]
    stated = [*must_state, *rng.sample(others, count - len(must_state))]
    rng.shuffle(stated)
    sentences = [_sentence(rng, entity, key, style, first=not position) for position, key in enumerate(stated)]
    unused = [key for key in keys if key not in stated]
    while sum(len(sentence.split()) for sentence in sentences) < style.fewest_words and unused:
        stated.append(unused.pop(rng.randrange(len(unused))))
        sentences.append(_sentence(rng, entity, stated[-1], style, first=False))
    while rng.random() < style.filler and len(sentences) < len(stated) + 2:
        filler = rng.choice(entity.family.fillers)
        if filler not in sentences:
            sentences.insert(rng.randint(1, len(sentences)), filler)
    if rng.random() < style.title:
        sentences.insert(0, rng.choice(entity.family.titles))
    return Record(entity, tuple(stated), " ".join(sentences))


def _sentence(rng: random.Random, entity: Entity, key: str, style: Style, first: bool) -> str:
    attribute: Attribute = entity.family.attributes[key]
    template = rng.choice(attribute.say_held_out if style.held_out_templates else attribute.say)
    draw = rng.random()
    if first or draw < style.by_name:
        subject, possessive, object_ = entity.name, f"{entity.name}'s", entity.name
    elif draw < style.by_name + style.by_noun:
        noun = rng.choice(entity.family.nouns)
        subject, possessive, object_ = noun, f"{noun}'s", noun
    elif entity.family.name == "person":
        woman = entity.name.split()[0] in WOMEN
        subject, possessive, object_ = ("she", "her", "her") if woman else ("he", "his", "him")
    else:
        subject, possessive, object_ = "it", "its", "it"
    text = template.format(s=subject, p=possessive, o=object_, v=entity.values[key][0])
    return _capital(with_article(text))
