"""`dprag evaluate --world` killed without warning goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from distilledprag.commands import evaluate as command

CHILD = """
import sys
from pathlib import Path
from distilledprag.commands.evaluate import run
run(True, 2, 0, "closed_book,rag", Path(sys.argv[1]), sys.argv[2], sys.argv[3], None)
"""


def test_a_killed_evaluation_goes_on_and_writes_the_table_of_an_unbroken_one(
    tiny_base_folder, tiny_generator_folder, tmp_path, monkeypatch
):
    folders = (str(tiny_base_folder), str(tiny_generator_folder))
    broken, whole = tmp_path / "broken.json", tmp_path / "whole.json"
    partial = tmp_path / "broken.json.partial"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(broken), *folders], env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    while child.poll() is None and not (partial.exists() and partial.read_text().count('"method"') >= 3):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert partial.exists() and not broken.exists()
    kept = json.loads(partial.read_text())["rows"]
    taken_up = []
    original = command.evaluate_world

    def watched(setting, methods, n, seed, on_row, partial_rows):
        taken_up.extend(partial_rows.rows.values())
        return original(setting, methods, n, seed, on_row, partial_rows)

    monkeypatch.setattr(command, "evaluate_world", watched)
    command.run(True, 2, 0, "closed_book,rag", broken, *folders, None)
    assert len(kept) >= 3 and taken_up == kept
    command.run(True, 2, 0, "closed_book,rag", whole, *folders, None)
    assert json.loads(broken.read_text())["rows"] == json.loads(whole.read_text())["rows"]
    assert not partial.exists()
