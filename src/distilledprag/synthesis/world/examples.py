"""Examples of the record world: a few passages and the questions that they answer.

An example is a pure function of (split, seed, index), so a run that resumes sees the same examples.
Kinds: `single` (one fact), `bridge` (a fact of the entity that another passage points to, always beside a passage about
another entity of that family which states the same kind of fact), `comparison` (two entities of a family),
`compositional` (the entity is named only by a description that another fact of its passage gives).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from distilledprag.synthesis.world.families import Family, families
from distilledprag.synthesis.world.names import Names, Partition
from distilledprag.synthesis.world.records import Entity, Record, Style, draw_entity, with_article, write

Kind = Literal["single", "bridge", "comparison", "compositional"]
Split = Literal["train", "validation", "test", "held_out_templates", "held_out_family"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)
FEWEST_DOCUMENTS: dict[Kind, int] = {"single": 1, "bridge": 3, "comparison": 2, "compositional": 1}


@dataclass(frozen=True)
class Question:
    """`documents`: positions (from 0) of the passages that the answer needs."""

    text: str
    answer: str
    kind: Kind
    documents: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """Passages, the entity that each is about, and questions about them."""

    documents: tuple[str, ...]
    questions: tuple[Question, ...]
    entities: tuple[str, ...] = ()


class World:
    """The seeded, endless world of one split.

    `style` sets how passages are written (its `held_out_templates` is set by the split).
    Names come from the split's own partition; the two held-out splits use test names.
    """

    def __init__(self, split: Split, seed: int = 0, style: Style | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        self.split: Split = split
        self.seed = seed
        base = style or Style()
        self.style = Style(**{**vars(base), "held_out_templates": split == "held_out_templates"})
        self.partition: Partition = split if split in ("train", "validation") else "test"  # type: ignore[assignment]
        self.families = families()
        self.subjects = [f for f in self.families.values() if f.held_out == (split == "held_out_family")]

    def example(self, index: int, kind: Kind, documents: int) -> Example:
        """Example number `index` with `documents` passages and every question of `kind` (singles always included)."""
        if documents < FEWEST_DOCUMENTS[kind]:
            raise ValueError(f"a {kind} question needs at least {FEWEST_DOCUMENTS[kind]} documents, got {documents}")
        return PassageWriter(self, random.Random(f"{self.split}/{self.seed}/{index}"), documents).write(kind)


class PassageWriter:
    """Builds one example; owns its random stream."""

    def __init__(self, world: World, rng: random.Random, documents: int) -> None:
        self.world = world
        self.rng = rng
        self.count = documents
        self.names = Names(rng, world.partition)
        self.records: list[Record] = []

    def write(self, kind: Kind) -> Example:
        planned = getattr(self, f"_plan_{kind}")()
        order = list(range(len(self.records)))
        self.rng.shuffle(order)
        self.records = [self.records[position] for position in order]
        place = {old: new for new, old in enumerate(order)}
        special = [Question(q.text, q.answer, q.kind, tuple(place[d] for d in q.documents)) for q in planned]
        singles = [q for position in range(len(self.records)) for q in self._singles(position)]
        documents = tuple(record.text for record in self.records)
        return Example(documents, tuple(special + singles), tuple(record.entity.name for record in self.records))

    # -- passages ---------------------------------------------------------------------------------------------------
    def _entity(self, family: Family, differing: str | None = None) -> Entity:
        """A new entity whose name (and value of `differing`) no other entity of this example has."""
        for _ in range(100):
            entity = draw_entity(self.names, family)
            others = [record.entity for record in self.records]
            if any(entity.name == other.name for other in others):
                continue
            if differing and any(
                other.family is family and other.values[differing] == entity.values[differing] for other in others
            ):
                continue
            return entity
        raise RuntimeError(f"no fresh {family.key} found")

    def _add(self, entity: Entity, must_state: tuple[str, ...] = ()) -> int:
        self.records.append(write(self.rng, entity, self.world.style, must_state))
        return len(self.records) - 1

    def _fill(self, family: Family) -> None:
        """Other passages, more often than not of the same family, until the example has its number."""
        while len(self.records) < self.count:
            other = family if self.rng.random() < 0.6 else self.rng.choice(self.world.subjects)
            self._add(self._entity(other))

    # -- questions --------------------------------------------------------------------------------------------------
    def _ask(self, family: Family, key: str, name: str) -> str:
        attribute = family.attributes[key]
        held_out = self.world.style.held_out_templates
        template = self.rng.choice(attribute.ask_held_out if held_out else attribute.ask)
        return template.format(n=name)

    def _singles(self, position: int) -> list[Question]:
        entity, stated = self.records[position].entity, self.records[position].stated
        return [
            Question(self._ask(entity.family, key, entity.name), entity.values[key][0], "single", (position,)) for key in stated
        ]

    def _plan_single(self) -> list[Question]:
        family = self.rng.choice(self.world.subjects)
        if self.world.style.rivals and self.rng.random() < self.world.style.rivals:
            shared = tuple(self.rng.sample(list(family.attributes), 3))
            while len(self.records) < self.count:
                self._add(self._entity(family), shared)
        self._fill(family)
        return []

    def _plan_comparison(self) -> list[Question]:
        family = self.rng.choice([f for f in self.world.subjects if f.having("compare")])
        keys = family.having("compare")
        keys = self.rng.sample(keys, min(len(keys), 2))
        first = self._entity(family)
        position = self._add(first, tuple(keys))
        second = self._entity(family)
        while any(second.values[key][1] == first.values[key][1] for key in keys):
            second = self._entity(family)
        self._add(second, tuple(keys))
        self._fill(family)
        questions = []
        for key in keys:
            smaller, larger = sorted((first, second), key=lambda entity: entity.values[key][1] or 0)
            for direction, template in (family.attributes[key].compare or {}).items():
                pair = [first.name, second.name]
                self.rng.shuffle(pair)
                answer = larger.name if direction == "more" else smaller.name
                questions.append(Question(template.format(x=pair[0], y=pair[1]), answer, "comparison", (position, position + 1)))
        self.rng.shuffle(questions)
        return questions

    def _plan_compositional(self) -> list[Question]:
        family = self.rng.choice(self.world.subjects)
        key = self.rng.choice(family.having("describe"))
        while len(self.records) < self.count:
            entity = self._entity(family, differing=key)
            self._add(entity, (key,) if not self.records or self.rng.random() < 0.7 else ())
        questions = []
        for position, record in enumerate(self.records):
            if key in record.stated:
                template = record.entity.family.attributes[key].describe or ""
                description = with_article(template.format(v=record.entity.values[key][0]))
                for other in record.stated:
                    if other != key:
                        text = self._ask(family, other, description)
                        answer = record.entity.values[other][0]
                        questions.append(Question(text, answer, "compositional", (position,)))
        self.rng.shuffle(questions)
        return questions

    def _plan_bridge(self) -> list[Question]:
        source_family = self.rng.choice([f for f in self.world.subjects if f.having("relation")])
        relation = self.rng.choice(source_family.having("relation"))
        attribute = source_family.attributes[relation]
        target_family = self.world.families[attribute.relation or ""]
        asked = tuple(self.rng.sample(list(target_family.attributes), 2))
        sources: list[int] = []
        targets: list[int] = []
        for _ in range(2 if self.count >= 4 else 1):
            named = self._entity(target_family)
            targets.append(self._add(named, asked))
            pointing = self._entity(source_family).with_value(relation, (named.name, None))
            sources.append(self._add(pointing, (relation,)))
        if len(targets) == 1:
            self._add(self._entity(target_family), asked)
        self._fill(source_family)
        questions = []
        for source, target in zip(sources, targets, strict=True):
            name = f"the {attribute.noun} of {self.records[source].entity.name}"
            for key in self.records[target].stated:
                answer = self.records[target].entity.values[key][0]
                if answer != self.records[source].entity.name:
                    questions.append(Question(self._ask(target_family, key, name), answer, "bridge", (source, target)))
        self.rng.shuffle(questions)
        return questions
