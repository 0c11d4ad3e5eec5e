"""Train the reader, the joint stage and the masks of a base in one sitting (see docs/train-on-gpu.md).

    python scripts/train_reader.py --base FOLDER --data FOLDER_OR_FILE... --out runs/reader --minutes 9 --device cuda

Needs torch, transformers (which brings regex and tokenizers), safetensors and jinja2 only, so that it runs on a lent GPU machine
without an installation (PYTHONPATH=src). `dprag train recipes/smollm2-135m.yaml` is the same from a recipe.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from distilledprag.base.llm import chosen_device
from distilledprag.distillation.reader_training import ReaderSettings, train_reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start-from", type=Path, help="folder of an earlier run whose LoRA is the start")
    parser.add_argument("--resume", action="store_true")
    numbers = [field for field in fields(ReaderSettings) if field.name != "weights"]
    for field in numbers:
        kind = int if field.default is None else type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    given = parser.parse_args()
    settings = ReaderSettings(**{field.name: getattr(given, field.name) for field in numbers})
    device = chosen_device(given.device)
    train_reader(given.base, given.data, given.out, settings, device=device, start_from=given.start_from, resume=given.resume)


if __name__ == "__main__":
    main()
