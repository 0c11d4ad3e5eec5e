"""Put a trained reader where the package ships it: python scripts/ship_reader.py runs/smollm2-135m"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from distilledprag.base.default import WEIGHTS
from distilledprag.base.reader import load_tensors

FILES = ("reader.safetensors", "masks.safetensors", "training.json", "log.jsonl")


def main(folder: Path) -> None:
    for name in FILES[:2]:
        load_tensors(folder / name)
    json.loads((folder / FILES[2]).read_text())
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(folder / name, WEIGHTS / name)
    print(f"{folder} is now the reader of the default base: {WEIGHTS}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
