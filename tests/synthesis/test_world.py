"""The record world: reproducible, new at test time, and every answer follows from the passages."""

from __future__ import annotations

import re

import pytest

from distilledprag.synthesis.world import FEWEST_DOCUMENTS, KINDS, SPLITS, Style, World
from distilledprag.synthesis.world.families import families
from distilledprag.synthesis.world.names import STEMS, partition_of


def examples(split, kind, documents, count=60):
    world = World(split, seed=3)
    return [world.example(index, kind, documents) for index in range(count)]


def test_there_are_eight_families_and_one_held_out():
    held_out = [family for family in families().values() if family.held_out]
    assert len(held_out) == 1 and len(families()) - len(held_out) >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_a_function_of_split_seed_and_index(kind):
    first, again = World("train", 5), World("train", 5)
    assert first.example(7, kind, 3) == again.example(7, kind, 3)
    assert first.example(7, kind, 3) != first.example(8, kind, 3)
    assert first.example(7, kind, 3) != World("train", 6).example(7, kind, 3)


def test_every_stem_belongs_to_one_partition_and_every_part_is_trained():
    for starts, ends in STEMS.values():
        trained = [(s, e) for s in starts for e in ends if partition_of(s + e) == "train"]
        tested = [(s, e) for s in starts for e in ends if partition_of(s + e) == "test"]
        assert tested and {s for s, _ in trained} == set(starts) and {e for _, e in trained} == set(ends)


def test_test_names_never_occur_in_training_passages():
    surnames = {s + e for s in STEMS["surname"][0] for e in STEMS["surname"][1] if partition_of(s + e) == "test"}
    text = " ".join(d for kind in KINDS for e in examples("train", kind, 3) for d in e.documents)
    words = set(re.findall(r"\w+", text))
    assert not words & surnames
    tested = " ".join(d for e in examples("test", "single", 3) for d in e.documents)
    assert set(re.findall(r"\w+", tested)) & surnames


@pytest.mark.parametrize("split", SPLITS)
def test_a_single_answer_stands_in_its_document(split):
    for example in examples(split, "single", 2):
        for question in example.questions:
            (document,) = question.documents
            assert question.answer in example.documents[document]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_is_asked_with_the_number_of_documents_asked_for(split, kind):
    for example in examples(split, kind, 3, count=20):
        assert len(example.documents) == 3
        assert any(question.kind == kind for question in example.questions)


@pytest.mark.parametrize("documents", [3, 4])
def test_a_bridge_needs_both_documents_beside_a_distractor_that_states_the_same(documents):
    for example in examples("test", "bridge", documents):
        bridges = [question for question in example.questions if question.kind == "bridge"]
        for question in bridges:
            source, target = question.documents
            assert source != target and question.answer in example.documents[target]
            singles = [q for q in example.questions if q.kind == "single" and q.documents == (target,)]
            names = [q.answer for q in example.questions if q.kind == "single" and q.documents == (source,)]
            assert any(name in example.documents[target] for name in names)  # the source names the target
            assert singles
        # Of the first target's family there is another passage which answers at least two of the same questions.
        target = bridges[0].documents[1]
        assert any(
            _asked(example, place) & _asked(example, target) for place in range(documents) if place not in bridges[0].documents
        )


def _asked(example, document):
    """Which attributes a document states, recognised from the wording of its single questions."""
    found = set()
    for question in (q for q in example.questions if q.kind == "single" and q.documents == (document,)):
        for family in families().values():
            for key, attribute in family.attributes.items():
                for template in attribute.ask:
                    if re.fullmatch(re.escape(template).replace(r"\{n\}", ".+"), question.text):
                        found.add((family.key, key))
    return found


def test_comparisons_are_right_by_the_documents_themselves():
    for example in examples("test", "comparison", 2, count=80):
        for question in (q for q in example.questions if q.kind == "comparison" and ("born" in q.text or "founded" in q.text)):
            years = {}
            for single in (q for q in example.questions if q.kind == "single"):
                if re.fullmatch(r"(19|20)\d\d", single.answer) and re.search(r"born|birth|founded|founding|existed", single.text):
                    years[single.documents[0]] = int(single.answer)
            if len(years) != 2:
                continue
            right = (min if "earlier" in question.text else max)(years, key=years.__getitem__)
            assert question.answer in example.documents[right]


def test_a_description_fits_one_document_only():
    for example in examples("test", "compositional", 3):
        for question in (q for q in example.questions if q.kind == "compositional"):
            assert question.answer in example.documents[question.documents[0]]


@pytest.mark.parametrize("split", SPLITS)
def test_passages_have_twenty_to_seventy_words(split):
    lengths = [len(d.split()) for kind in KINDS for e in examples(split, kind, 3) for d in e.documents]
    assert min(lengths) >= 20 and max(lengths) <= 70


def test_held_out_templates_appear_only_in_their_split():
    def used(split, field):
        found = set()
        text = " ".join(d for k in KINDS for e in examples(split, k, 3) for d in e.documents)
        for family in families().values():
            for attribute in family.attributes.values():
                for template in getattr(attribute, field):
                    middle = max(re.split(r"\{.\}", template), key=len)
                    if len(middle.split()) >= 3 and middle in text:
                        found.add(template)
        return found

    assert used("held_out_templates", "say_held_out")
    assert not used("train", "say_held_out") - used("train", "say")


def test_the_held_out_family_is_never_a_subject_in_training():
    text = " ".join(d for k in KINDS for e in examples("train", k, 3) for d in e.documents)
    assert "MV " not in text
    assert "MV " in " ".join(d for e in examples("held_out_family", "single", 2) for d in e.documents)


def test_too_few_documents_for_a_kind_is_refused():
    for kind, fewest in FEWEST_DOCUMENTS.items():
        if fewest > 1:
            with pytest.raises(ValueError, match=f"at least {fewest}"):
                World("test").example(0, kind, fewest - 1)


def test_rivals_state_the_same_attributes_of_the_same_family():
    world = World("train", 0, Style(rivals=1.0))
    meanings: dict[str, set] = {}  # two families may share a wording
    for family in families().values():
        for key, attribute in family.attributes.items():
            for template in attribute.ask:
                meanings.setdefault(template, set()).add((family.key, key))
    for index in range(40):
        example = world.example(index, "single", 3)
        stated = [set(), set(), set()]
        for question in example.questions:
            (place,) = question.documents
            stated[place] |= meanings[question.text.replace(example.entities[place], "{n}")]
        shared = [family for family, _ in stated[0] & stated[1] & stated[2]]
        assert max(shared.count(family) for family in shared) >= 3
