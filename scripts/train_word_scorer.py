"""Train the sentence scorer of chosen rows (generators/sentence_choice.py) on sentences that hold the answer. Minutes on a CPU.

    python scripts/train_word_scorer.py DATA_FOLDER [--seed 0] [--epochs 6] [--out FILE]

A tenth of the contexts (by hash) is held out; how often a sentence with the answer is among the chosen ones is printed for
them, beside a random order and the words' overlap alone, and written to FILE.json with the data's hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save
from torch import nn
from transformers import AutoTokenizer

from distilledprag.base.default import default_base
from distilledprag.distillation.contexts import data_hash, passage_text, read_rows
from distilledprag.files import write_atomically
from distilledprag.generators.sentence_choice import FEATURES, WEIGHTS, Certainty, calibrated, choose, cut, features

FILES = "squad_train nq_qed_train quoref_train hotpotqa_train 2wiki_train fairytaleqa_train".split()
HIDDEN = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(default_base(print))
    paths = [arguments.data / f"{name}.jsonl.gz" for name in FILES]
    training, held_out = [], []
    for path in paths:
        for row in track(list(read_rows(path)), path.name):
            answers = [str(answer).lower() for answer in row["answers"] if str(answer).strip()]
            passages = [passage_text(document) for document in row["documents"]]
            parts = cut(passages, lambda text: len(tokenizer.encode(f" {text}", add_special_tokens=False)))
            holding = torch.tensor([any(answer in part.text.lower() for answer in answers) for part in parts])
            if len(parts) > 2 and holding.any():
                x = torch.tensor(features(row["question"], parts), dtype=torch.float32)
                group = int(hashlib.sha256("|".join(passages).encode()).hexdigest()[:8], 16) % 10
                (training if group else held_out).append((x, holding, parts, path.name.split(".")[0]))
    torch.manual_seed(arguments.seed)
    stacked = torch.cat([x for x, *_ in training])
    mean, deviation = stacked.mean(0), stacked.std(0) + 1e-6
    net = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.GELU(approximate="tanh"), nn.Dropout(0.1), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    for _ in track(range(arguments.epochs), "training"):
        for batch in torch.randperm(len(training)).split(128):
            chosen = [training[i] for i in batch.tolist()]
            scores = net((torch.cat([x for x, *_ in chosen]) - mean) / deviation)[:, 0].split([len(x) for x, *_ in chosen])
            # The probability, among a context's sentences, of those that hold the answer.
            loss = torch.stack([
                s.logsumexp(0) - s[holding].logsumexp(0) for s, (_, holding, *_) in zip(scores, chosen, strict=True)
            ]).mean()  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    generator = np.random.default_rng(arguments.seed)
    orders = {
        "trained": lambda x: net((x - mean) / deviation)[:, 0].detach().numpy(),
        "overlap": lambda x: x[:, 0].numpy(),
        "random": lambda x: generator.random(len(x)),
    }
    certainty = {
        name: calibrated([(order(x), [part.size for part in parts]) for x, _, parts, _ in held_out])
        for name, order in orders.items()
    }
    recall = {
        str(share): {name: _recall(held_out, order, share, certainty[name]) for name, order in orders.items()}
        for share in (0.25, 0.35, 0.5)
    }
    tensors = {"mean": mean, "deviation": deviation, "hidden.weight": net[0].weight, "hidden.bias": net[0].bias,
               "out.weight": net[3].weight, "out.bias": net[3].bias,
               "certainty": torch.tensor(certainty["trained"])}  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, save({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}))
    record = {
        "command": f"python scripts/train_word_scorer.py DATA --seed {arguments.seed} --epochs {arguments.epochs}",
        "data": [path.name for path in paths],
        "data_hash": data_hash(paths),
        "seed": arguments.seed,
        "training_questions": len(training),
        "held_out_questions": len(held_out),
        "answer_kept_and_rows_kept": recall,
    }
    write_atomically(arguments.out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def _recall(held_out: list, order, share: float, certainty: Certainty) -> list[float]:
    """[share of questions of which a sentence with the answer is kept, mean share of rows kept]."""
    found, used = [], []
    for x, holding, parts, _ in held_out:
        kept = choose(order(x), parts, share, certainty)
        found.append(any(bool(holding[i]) for i in kept))
        used.append(sum(parts[i].size for i in kept) / sum(part.size for part in parts))
    return [round(float(np.mean(found)), 4), round(float(np.mean(used)), 4)]


if __name__ == "__main__":
    main()
