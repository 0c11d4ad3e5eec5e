"""Train the reader, the joint stage and the masks of a base in one sitting (see docs/train-on-gpu.md).

    python scripts/train_reader.py --base FOLDER --data FOLDER_OR_FILE... --out runs/reader --minutes 9 --device cuda
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilledprag.distillation.joint import JointSettings, JointTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start-from", type=Path, help="folder of an earlier run whose LoRA is the start")
    parser.add_argument("--resume", action="store_true")
    for field in fields(JointSettings):
        name = "--" + field.name.replace("_", "-")
        if field.name == "compile":
            parser.add_argument(name, action="store_true")
        elif field.name != "weights":
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = parser.parse_args()
    settings = JointSettings(**{field.name: getattr(given, field.name) for field in fields(JointSettings) if field.name != "weights"})
    files = sorted(file for path in given.data for file in (path.glob("*.jsonl*") if path.is_dir() else [path]))
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    model = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.bfloat16).to(given.device)
    training = JointTraining(model, tokenizer, files, given.out, settings)
    print(f"{training.contexts} contexts of {len(files)} files, on {given.device}", flush=True)
    if given.start_from:
        training.start_from(given.start_from)
    if given.resume and training.resume():
        print(f"resumed at step {training.step}", flush=True)
    training.run()


if __name__ == "__main__":
    main()
