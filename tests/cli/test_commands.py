"""The commands as the contract words them: output, exit codes, and one clear message for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny import tiny_model, tiny_tokenizer

from distilledprag.generators.kept_states import FILE, KeptStates

DOCUMENT = "Anna Tovberg lives in Oakport. She earns $46,000 a year.\n\nVelkor Foods is based in Millport.\n"


@pytest.fixture
def models(tiny_prepared_folder):
    return ["--base", str(tiny_prepared_folder)]


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text(DOCUMENT)
    return folder


def test_ask_prints_one_json_object_as_the_contract_says(dprag, documents, models):
    code, out, _ = dprag(
        "ask", "Where does Anna Tovberg live?", "--docs", documents, "--top-k", 2, "--compare", "--json", *models
    )
    assert code == 0
    record = json.loads(out)
    assert set(record["sent"]) == {"prompt", "masks", "adapter_bytes", "bytes_total"}
    assert set(record["seconds"]) == {"retrieve", "encode", "answer"}
    assert [set(p) >= {"source", "text", "score"} for p in record["passages"]] == [True, True]
    assert isinstance(record["answer"], str) and {"closed_book", "rag"} <= record.keys()
    assert "Oakport" not in record["sent"]["prompt"]


def test_fewer_than_three_passages_are_all_used_where_nobody_says_how_many(dprag, documents, models):
    code, out, _ = dprag("ask", "Where does Anna Tovberg live?", "--docs", documents / "a.txt", "--json", *models)
    assert code == 0 and len(json.loads(out)["passages"]) == 2


def test_several_paths_may_follow_docs(dprag, documents, models):
    for name in "bcd":
        (documents / f"{name}.txt").write_text(f"Anna Tovberg met {name.upper()} in Oakport.")
    files = [documents / f"{name}.txt" for name in "bcd"]
    code, out, _ = dprag("ask", "Where does Anna Tovberg live?", "--docs", *files, "--json", *models)
    assert code == 0 and {passage["source"] for passage in json.loads(out)["passages"]} == set(map(str, files))
    code, _, err = dprag("ask", "Where", "does", "Anna", "live?", "--docs", documents, *models)
    assert code == 1 and "quotation marks" in err


def test_encode_refuses_more_text_than_the_base_has_masks_for(dprag, models, tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(f"Passage {number} is about wheat." for number in range(500)))
    code, _, err = dprag("encode", tmp_path / "long.txt", "--out", tmp_path / "adapter", *models)
    assert code == 1 and "more tokens than the base's 128 masks" in " ".join(err.split()) and not (tmp_path / "adapter").exists()


def test_one_bad_file_takes_no_other_with_it_and_the_exit_code_tells(dprag, documents, models, tmp_path):
    (documents / "b.txt").write_bytes(b"\0\1\2")
    (documents / "deep.json").write_bytes(b"[" * 100_000)
    code, out, err = dprag("ask", "Where does Anna Tovberg live?", "--docs", documents, "--json", *models)
    err = " ".join(err.split())
    assert code == 1 and "2 of 3 files could not be read" in err and "b.txt" in err and "deep.json" in err
    record = json.loads(out)
    assert record["passages"] and [note for note in record["notes"] if "deep.json" in note and note.startswith("not read: ")]
    code, _, err = dprag("encode", documents, "--out", tmp_path / "adapter", *models)
    assert code == 1 and "no adapter was made" in err and not (tmp_path / "adapter").exists()
    code, _, err = dprag("ask", "Where?", "--docs", documents, "--limits", "speed=3", *models)
    assert code == 1 and "there is no limit 'speed'" in err


@pytest.mark.parametrize("kind", ["peft", "engine"])
def test_encode_never_deletes_what_is_no_adapters(dprag, documents, models, kind):
    before = (documents / "a.txt").read_bytes()
    code, _, err = dprag("encode", documents, "--for", kind, "--out", documents, *models)
    assert code == 1 and "holds other files (a.txt)" in " ".join(err.split()) and (documents / "a.txt").read_bytes() == before
    for again in (kind, "engine", "peft"):
        assert dprag("encode", documents, "--for", again, "--out", documents.parent / "adapter", *models)[0] == 0


def test_a_wrong_base_is_told_before_any_document_is_read(dprag, documents, tmp_path):
    (documents / "b.txt").write_bytes(b"\0\1\2")
    for command in (["ask", "Where?", "--docs", documents], ["encode", documents, "--out", tmp_path / "adapter"]):
        code, _, err = dprag(*command, "--base", tmp_path)
        assert code == 1 and "is no prepared base" in err and "not read" not in err
    code, _, err = dprag("index", documents, "--store", tmp_path / "store", "--base", tmp_path)
    assert code == 1 and "is no prepared base" in err and not (tmp_path / "store").exists()


def test_ask_and_index_say_what_could_not_be_read_of_a_file(dprag, half_scanned, models, tmp_path):
    note = f"{half_scanned}: pages 2 and 3 hold no text (scanned?)"
    code, out, err = dprag("ask", "Where does Anna Tovberg live?", "--docs", half_scanned, "--json", *models)
    assert code == 0 and note in err and note in json.loads(out)["notes"]
    code, _, err = dprag("index", half_scanned, "--store", tmp_path / "store")
    assert code == 0 and note in err and "1 added" in err


def test_index_takes_several_paths_and_counts_them_together(dprag, documents, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Bram Keller lives in Dunburg.")
    code, out, err = dprag("index", documents, other, "--store", tmp_path / "store")
    assert code == 0 and "2 added" in err and "2 documents in collection default" in out
    (documents / "a.txt").unlink()
    (documents / "c.txt").write_text("Cem Aksoy lives in Reeth.")
    code, _, err = dprag("index", documents, other, "--store", tmp_path / "store")
    assert code == 0 and "1 added, 0 changed, 1 unchanged, 1 deleted" in " ".join(err.split())
    code, _, err = dprag("index", documents, tmp_path / "absent", "--store", tmp_path / "none")
    assert code == 1 and "does not exist" in err and not (tmp_path / "none").exists()


def test_index_encodes_ahead_when_a_base_is_named_and_drops_states_with_their_documents(dprag, documents, models, tmp_path):
    store = tmp_path / "store"
    (documents / "b.txt").write_text("Bram Keller lives in Dunburg.")
    code, _, err = dprag("index", documents, "--store", store)
    assert code == 0 and not (store / FILE).exists()
    code, _, err = dprag("index", documents, "--store", store, *models)
    assert code == 0 and "3 passages encoded; the states of 3 are kept" in " ".join(err.split())
    code, _, err = dprag("index", documents, "--store", store, *models)
    assert code == 0 and "0 passages encoded" in " ".join(err.split())
    (documents / "a.txt").unlink()
    assert dprag("index", documents, "--store", store)[0] == 0
    kept = KeptStates(store)
    assert kept.kept().passages == 1
    kept.close()


def test_ask_shows_the_wire(dprag, documents, models):
    code, out, _ = dprag("ask", "Where does Anna Tovberg live?", "--docs", documents, "--top-k", 1, "--show-wire", *models)
    assert code == 0 and "answer:" in out and "<|doc_mask|><|doc_mask|>" in out.replace("\n", "").replace(" ", "")


def test_notes_say_what_was_left_out_and_that_nothing_was_found(dprag, documents, models):
    text = "Anna Tovberg lives in Oakport near the old harbour. " + " ".join(f"Wheat number {n} grows slowly." for n in range(12))
    (documents / "long.txt").write_text(text)
    long = documents / "long.txt"
    code, out, err = dprag("ask", "Where does Anna Tovberg live?", "--docs", long, "--rows", 0.3, "--json", *models)
    assert code == 0, err
    assert any("tokens were left out" in note for note in json.loads(out)["notes"])
    code, out, _ = dprag("ask", "Zzyzx?", "--docs", documents, "--top-k", 1, "--json", *models)
    notes = json.loads(out)["notes"]
    assert json.loads(out)["passages"] == [] and any("no passage shares a word" in note for note in notes)
    code, out, _ = dprag("ask", "Who is Anna?", "--docs", documents, "--top-k", 1, "--language", "english", "--json", *models)
    assert any("1 of 3 passages were used (--top-k 1)" in note for note in json.loads(out)["notes"])
    code, _, err = dprag("ask", "Who?", "--docs", documents, "--retriever", "sparse", *models)
    assert code == 1 and "bm25, dense, hybrid" in err


def test_a_trained_generator_answers_and_encodes(dprag, documents, tiny_base_folder, tiny_generator_folder, tmp_path):
    models = ["--base", tiny_base_folder, "--generator", tiny_generator_folder]
    code, out, err = dprag("ask", "Where does Anna Tovberg live?", "--docs", documents, "--top-k", 2, "--json", *models)
    assert code == 0, err
    sent = json.loads(out)["sent"]
    assert "Oakport" not in sent["prompt"] and sent["masks"] > 10 and sent["adapter_bytes"] > 0
    code, out, err = dprag("encode", documents, "--out", tmp_path / "adapter", "--json", *models)
    assert code == 0, err
    record = json.loads(out)
    assert record["masks"] > 10 and record["prompt"].count("<|doc_mask|>") == record["masks"] and "{question}" in record["prompt"]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    code, _, err = dprag("encode", documents, "--out", tmp_path / "states", "--for", "engine", *models)
    assert code == 1 and "no state adapters" in err
    code, _, err = dprag("ask", "Where?", "--docs", documents, "--base", tiny_base_folder, "--generator", documents)
    assert code == 1 and "not a generator checkpoint" in err


def test_encode_writes_a_peft_folder(dprag, documents, models, tmp_path):
    code, out, _ = dprag("encode", documents / "a.txt", "--out", tmp_path / "adapter", *models)
    assert code == 0 and "rows from 2 passages" in " ".join(out.split())
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "adapter").iterdir()}
    code, out, _ = dprag("info", tmp_path / "adapter")
    assert code == 0 and "adapter" in out and "rank" in out


def test_info_names_generators_and_bases(dprag, tiny_base_folder, tiny_generator_folder):
    assert "base model" in dprag("info", tiny_base_folder)[1]
    assert "generator" in dprag("info", tiny_generator_folder)[1]


def test_prepare_base_makes_a_base_that_loads_and_prints_both_folders(dprag, tmp_path):
    from distilledprag.base.llm import load_base
    from distilledprag.base.prepared import prepared_record

    tokenizer = tiny_tokenizer(context=128)
    tiny_model(tokenizer).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    code, out, _ = dprag("prepare-base", tmp_path / "plain", "--out", tmp_path / "served", "--masks", 8, "--layer", 1)
    assert code == 0 and out.split() == [str(tmp_path / "served"), str(tmp_path / "served-encoder")]
    assert load_base(tmp_path / "served").mask_token_id == len(tokenizer)
    assert prepared_record(tmp_path / "served").measured is None


def _mistakes(documents, tmp_path, models, other):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\0\1")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "nothing").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: distill\noutput: runs/x\nspeed: fast\n")
    unprepared = ["--base", str(other)]
    question = "Where does Anna live?"
    return {
        "missing file": (["ask", question, "--docs", tmp_path / "none.txt", *models], "does not exist"),
        "empty file": (["ask", question, "--docs", tmp_path / "empty.txt", *models], "is empty"),
        "binary file": (["ask", question, "--docs", tmp_path / "binary.txt", *models], "binary"),
        "unreadable PDF": (["encode", tmp_path / "broken.pdf", "--out", tmp_path / "o", *models], "PDF"),
        "empty folder": (["ask", question, "--docs", tmp_path / "nothing", *models], "no readable documents"),
        "empty question": (["ask", " ", "--docs", documents, *models], "question is empty"),
        "k too large": (["ask", question, "--docs", documents, "--top-k", "9", *models], "only 2 passages"),
        "unprepared base": (["ask", question, "--docs", documents, "--top-k", "1", *unprepared], "no prepared base"),
        "no such base": (["ask", question, "--docs", documents, "--top-k", "1", "--base", tmp_path / "none"], "no prepared base"),
        "unknown key": (["train", recipe], "speed"),
        "no recipe": (["train", tmp_path / "none.yaml"], "does not exist"),
        "unknown method": (["evaluate", "--data", recipe, "--methods", "magic", *models], "magic"),
        "nothing to evaluate": (["evaluate", *models], "--data"),
        "not a checkpoint": (["info", tmp_path / "nothing"], "holds no adapter"),
        "no such part": (["path", "heart"], "base, encoder or generator"),
    }


CASES = [
    "missing file", "empty file", "binary file", "unreadable PDF", "empty folder", "empty question", "k too large",
    "unprepared base", "no such base", "unknown key", "no recipe", "unknown method", "nothing to evaluate", "not a checkpoint",
    "no such part",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gives_one_message_and_exit_code_one(dprag, documents, tmp_path, models, other_base_folder, case):
    mistakes = _mistakes(documents, tmp_path, models, other_base_folder)
    assert mistakes.keys() == set(CASES)
    arguments, message = mistakes[case]
    code, _, err = dprag(*arguments)
    assert code == 1 and "error:" in err and "Traceback" not in err
    assert message in err.replace("\n", " ")


def test_damaged_adapters_are_refused(dprag, documents, models, tmp_path):
    dprag("encode", documents, "--out", tmp_path / "adapter", *models)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    code, _, err = dprag("info", tmp_path / "adapter")
    assert code == 1 and "Traceback" not in err


def test_wrong_usage_exits_with_two(dprag):
    assert dprag("ask", "Where?")[0] == 2
    assert dprag("dance")[0] == 2


def test_the_command_starts_without_loading_torch():
    code = "import sys; import distilledprag.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_failed_encode_leaves_nothing_behind(dprag, tmp_path, models):
    assert dprag("encode", tmp_path / "none.txt", "--out", tmp_path / "adapter", *models)[0] == 1
    assert not (tmp_path / "adapter").exists()
