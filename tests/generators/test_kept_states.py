"""Passages are encoded once: what is kept on disk is whole, private, bounded, shared and forgotten."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat

import pytest
import torch

from distilledprag.base.llm import PassageEncoder, load_base
from distilledprag.errors import ConfigError, StoreError
from distilledprag.generators.kept_states import FILE, KeptStates
from distilledprag.generators.state import StateGenerator
from distilledprag.prompts import PromptBuilder

ANNA = "Anna Tovberg lives in Oakport. She earns $46,000 a year. Her house has a red door."
BRAM = "Bram Keller lives in Dunburg."
SPACE, OTHER = b"space", b"another space"


@pytest.fixture
def kept(tmp_path):
    kept = KeptStates(tmp_path / "store")
    yield kept
    kept.close()


def generator_of(base, kept, layer=1):
    made = StateGenerator(base, PromptBuilder(base.tokenizer, base.mask_token_id), layer=layer)
    made.kept = kept
    return made


@pytest.fixture
def generator(tiny_base, kept):
    return generator_of(tiny_base, kept)


@pytest.fixture
def no_encoder(monkeypatch):
    """A function after whose call nothing may be encoded."""
    return lambda: monkeypatch.setattr(PassageEncoder, "states", lambda *_: pytest.fail("encoded again"))


def rows(count, seed=0, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def files(kept):
    return b"".join(file.read_bytes() for file in kept.file.parent.iterdir())


def test_an_adapter_of_kept_states_is_byte_for_byte_the_one_of_fresh_ones(generator, tiny_base, tmp_path, no_encoder):
    fresh = generator.states([ANNA, BRAM]).to_bytes()
    no_encoder()
    with_nothing_in_memory = generator_of(tiny_base, KeptStates(generator.kept.file.parent))
    assert with_nothing_in_memory.states([ANNA, BRAM]).to_bytes() == fresh
    assert with_nothing_in_memory.states([ANNA]).to_bytes() == generator_of(tiny_base, generator.kept).states([ANNA]).to_bytes()


def test_after_indexing_a_question_costs_no_encoder_pass_whichever_sentences_it_takes(generator, no_encoder):
    told = []
    assert generator.keep([ANNA, BRAM, ANNA, " "], lambda done, total: told.append((done, total))) == 2
    assert told[-1] == (2, 2) and generator.kept.kept().passages == 2
    no_encoder()
    assert generator.keep([BRAM, ANNA]) == 0
    whole = generator.states([ANNA, BRAM])
    first, last = "Anna Tovberg lives in Oakport.", "Her house has a red door."
    chosen = generator.states([f"{first} {last}", ""], [ANNA, BRAM])
    length = generator.prompts.document_length
    at = length(ANNA) - length(last)
    assert torch.equal(chosen.rows, torch.cat([whole.rows[: length(first)], whole.rows[at : length(ANNA)]]))


def test_a_sentence_whose_tokens_the_passage_does_not_have_is_encoded_by_itself(generator):
    lines = "Anna Tovberg lives in Oakport.\nShe earns $46,000 a year."
    part = "She earns $46,000 a year."
    made = generator.states([part], [lines])
    assert made.count == generator.prompts.document_length(part)
    assert torch.equal(made.rows, generator_of(generator.base, None).states([part]).rows)


def test_other_weights_layers_and_openings_have_states_of_their_own(tiny_base, other_base_folder, generator):
    other = generator_of(load_base(other_base_folder, dtype=torch.float32), None)
    assert len({generator.space(0), generator.space(1), other.space(1)}) == 3
    changed = generator_of(load_base(other_base_folder, dtype=torch.float32), None)
    with torch.no_grad():
        changed.base.model.model.layers[2].mlp.down_proj.weight += 1.0  # above the layer
    assert changed.space(1) == other.space(1)
    changed = generator_of(changed.base, None)
    with torch.no_grad():
        changed.base.model.model.layers[1].mlp.down_proj.weight += 1.0
    assert changed.space(1) != other.space(1)
    half = generator_of(load_base(other_base_folder, dtype=torch.bfloat16), None)
    assert half.space(1) == other.space(1)


def test_without_a_place_to_keep_states_nothing_is_encoded_ahead(tiny_base):
    with pytest.raises(ConfigError, match="nowhere"):
        generator_of(tiny_base, None).keep([ANNA])


def test_spaces_do_not_mix_and_nothing_is_counted_twice(kept):
    kept.write(SPACE, {ANNA: rows(3), BRAM: rows(2)})
    kept.write(SPACE, {ANNA: rows(9)})
    assert kept.kept().passages == 2 and kept.kept().bytes == 5 * (8 + 2)
    assert kept.missing(OTHER, [ANNA, BRAM, ANNA]) == [ANNA, BRAM] and kept.missing(SPACE, [BRAM, "new"]) == ["new"]
    assert kept.read(OTHER, [ANNA]) == {} and len(kept.read(SPACE, [ANNA])[ANNA]) == 3
    assert torch.allclose(kept.read(SPACE, [ANNA])[ANNA], rows(3), atol=0.02)


def test_forgotten_states_are_in_no_file_and_others_stay(kept):
    kept.write(SPACE, {ANNA: rows(40), BRAM: rows(40, seed=1)})
    kept.write(OTHER, {ANNA: rows(40, seed=2)})
    traces = [kept.read(space, [ANNA])[ANNA] for space in (SPACE, OTHER)]
    traces = [(each / (each.abs().amax(1, keepdim=True) / 127)).round().to(torch.int8).numpy().tobytes()[:64] for each in traces]
    assert all(trace in files(kept) for trace in traces)
    kept.forget([ANNA, "never seen"])
    assert not any(trace in files(kept) for trace in traces)
    assert kept.missing(SPACE, [ANNA, BRAM]) == [ANNA] and kept.kept().bytes == 40 * 10


def test_states_of_passages_that_a_store_holds_no_more_are_dropped(kept):
    kept.write(SPACE, {text: rows(2) for text in ("one", "two", "three")})
    assert kept.keep_only(["two", "four"]) == 2
    assert kept.missing(SPACE, ["one", "two", "three"]) == ["one", "three"]


def test_over_the_limit_those_used_longest_ago_go_first(tmp_path, monkeypatch):
    clock = iter(range(1000, 10**6, 1000))
    monkeypatch.setattr("distilledprag.generators.kept_states.time.time", lambda: next(clock))
    size = 1000 * (128 + 2)
    kept = KeptStates(tmp_path, limit=3 * size)
    for number in range(3):
        kept.write(SPACE, {f"text {number}": rows(1000, width=128)})
    kept.read(SPACE, ["text 0"])
    for number in range(3, 20):
        kept.write(SPACE, {f"text {number}": rows(1000, width=128)})
        kept.read(SPACE, ["text 0"])
    assert kept.missing(SPACE, [f"text {number}" for number in range(20)]) == [f"text {number}" for number in range(1, 18)]
    assert kept.kept().bytes == 3 * size
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 6 * size
    kept.close()


def test_only_the_owner_can_read_the_file_and_its_log(kept):
    kept.write(SPACE, {ANNA: rows(3)})
    assert len(list(kept.file.parent.iterdir())) == 3
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in kept.file.parent.iterdir())


def test_a_damaged_file_is_begun_anew_and_one_of_a_later_version_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database" * 1000)
    kept = KeptStates(tmp_path)
    kept.write(SPACE, {ANNA: rows(3)})
    assert len(kept.read(SPACE, [ANNA])[ANNA]) == 3
    kept.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="another version"):
        KeptStates(tmp_path)


def test_a_file_that_fails_costs_the_keeping_only(generator, caplog):
    with sqlite3.connect(generator.kept.file) as connection:
        connection.execute("DROP TABLE rows")
    assert len(generator.rows([ANNA])[0]) == generator.prompts.document_length(ANNA)
    assert generator.kept.kept().passages == 0
    assert "not kept" in caplog.text and "Anna" not in caplog.text


def write_for_ever(folder, name, told):
    kept = KeptStates(folder)
    for number in range(10**6):
        kept.write(SPACE, {f"{name} {number} {place}": torch.full((50, 64), number % 100 + 1.0) for place in range(4)})
        told.send(number)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # about threads, of which the children use none
def test_two_processes_that_are_killed_while_they_write_leave_whole_batches(tmp_path):
    context, children = multiprocessing.get_context("fork"), {}
    for name in ("left", "right"):
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=write_for_ever, args=(tmp_path, name, sending))
        child.start()
        children[name] = (child, receiving)
    last = {name: max(receiving.recv() for _ in range(8)) for name, (_, receiving) in children.items()}
    for child, _ in children.values():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    kept = KeptStates(tmp_path)
    for name, done in last.items():
        for number in range(done + 40):
            found = kept.read(SPACE, [f"{name} {number} {place}" for place in range(4)])
            assert len(found) in ((4,) if number <= done else (0, 4))
            for states in found.values():
                assert states.shape == (50, 64) and torch.allclose(states, torch.tensor(number % 100 + 1.0), rtol=1e-3)
    kept.write(SPACE, {ANNA: rows(3)})
    kept.close()
