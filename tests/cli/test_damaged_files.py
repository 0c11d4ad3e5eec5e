"""Files that a crash, a wrong copy or another program damaged: `dprag` says which one, in one message."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from distilledprag.errors import DistilledPRAGError
from distilledprag.generators import load_generator


def _edited(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _not_finite(folder):
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


DAMAGES = {
    "not finite": (_not_finite, "not finite"),
    "truncated": (_truncated, ""),
    "not JSON": (lambda folder: (folder / "config.json").write_text('{"architecture'), "config.json"),
    "not UTF-8": (lambda folder: (folder / "config.json").write_bytes(b'{"architecture": "\xff"}'), "config.json"),
    "a list": (lambda folder: (folder / "config.json").write_text("[1]"), "config.json"),
}
OF_GENERATORS = {
    "settings no mapping": (lambda folder: _edited(folder, settings="x"), "does not describe a generator"),
    "another architecture": (lambda folder: _edited(folder, settings={"architecture": "magic"}), "magic"),
    "a wrong setting": (lambda folder: _edited(folder, settings={"architecture": "paper", "rank": 0}), "rank"),
    "base no mapping": (lambda folder: _edited(folder, base="x"), "does not describe a generator"),
    "base without hashes": (lambda folder: _edited(folder, base={"id": "x"}), "identity"),
}


@pytest.mark.parametrize("kind", [*DAMAGES, *OF_GENERATORS])
def test_a_damaged_generator_is_refused_by_info_and_when_it_is_loaded(dprag, tiny_base, tiny_generator_folder, tmp_path, kind):
    generator = shutil.copytree(tiny_generator_folder, tmp_path / "generator")
    damage, message = {**DAMAGES, **OF_GENERATORS}[kind]
    damage(generator)
    code, _, err = dprag("info", generator)
    assert code == 1 and "error:" in err and message in err.split("error:")[-1]
    with pytest.raises(DistilledPRAGError) as caught:
        load_generator(generator, tiny_base)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_base_is_refused_by_info(dprag, tiny_base_folder, tmp_path, kind):
    base = shutil.copytree(tiny_base_folder, tmp_path / "base")
    damage, message = DAMAGES[kind]
    damage(base)
    code, _, err = dprag("info", base)
    assert code == 1 and "error:" in err and message in err.split("error:")[-1]


def test_info_passes_over_a_last_log_line_cut_short_and_names_another(dprag, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 0.75}\n{"step": 2, "lo')
    code, out, _ = dprag("info", tmp_path)
    assert code == 0 and "0.75" in out
    log.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.5}\n')
    code, _, err = dprag("info", tmp_path)
    assert code == 1 and "line 1 is damaged" in err


def test_what_is_no_recipe_is_refused(dprag, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(b"output: caf\xe9\n")
    code, _, err = dprag("train", recipe)
    assert code == 1 and "UTF-8" in err
    recipe.write_text("output: runs/x\n1: 2\n")
    code, _, err = dprag("train", recipe)
    assert code == 1 and "problem(s)" in err
    recipe.write_text(
        "output: runs/x\ngenerator: {architecture: paper}\ndata: {files: [a.jsonl]}\ntraining: {steps: 1, precision: bf32}\n"
    )
    code, _, err = dprag("train", recipe)
    assert code == 1 and "training.precision" in err


def test_a_link_that_leads_in_circles_is_no_document(dprag, tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "a.txt")
    code, _, err = dprag("ask", "Where?", "--docs", tmp_path / "a.txt")
    assert code == 1 and "link to nothing" in err
