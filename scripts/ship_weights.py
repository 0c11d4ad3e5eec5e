"""Put what training wrote where the package ships it:

python scripts/ship_weights.py runs/smollm2-135m            a reader with its masks (the scorer made for an older one goes)
python scripts/ship_weights.py runs/sentence-scorer/model   a sentence scorer for the default base
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from distilledprag.base.default import WEIGHTS
from distilledprag.base.prepared import SCORER_FILE
from distilledprag.base.reader import load_tensors

SCORER = (SCORER_FILE, "sentence_scorer.json")
READER = ("reader.safetensors", "masks.safetensors", "training.json", "log.jsonl")


def main(folder: Path) -> None:
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    if (folder / SCORER_FILE).is_file():
        load_tensors(folder / SCORER_FILE)
        names, what = SCORER, "sentence scorer"
    else:
        for name in READER[:2]:
            load_tensors(folder / name)
        json.loads((folder / READER[2]).read_text())
        names, what = READER, "reader"
        for name in SCORER:
            (WEIGHTS / name).unlink(missing_ok=True)
    for name in names:
        shutil.copyfile(folder / name, WEIGHTS / name)
    print(f"{folder} is now the {what} of the default base: {WEIGHTS}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
