"""Tiny models with random weights, made the way real ones are."""

from __future__ import annotations

from pathlib import Path

import torch

from distilledprag.base_model import BaseModel, install_mask, save_base
from distilledprag.generator import build_generator
from distilledprag.training.base_lm import BaseModelSettings, build_base
from distilledprag.training.tokenizer import train_tokenizer

TINY = BaseModelSettings(hidden=32, intermediate=48, layers=3, heads=4)


def save_tiny_base(folder: Path, seed: int) -> Path:
    tokenizer = train_tokenizer(vocabulary=4096, context=2048)
    model = build_base(TINY, tokenizer, seed)
    install_mask(model, tokenizer, seed=0)
    save_base(model, tokenizer, folder)
    return folder


PER_RANK = {"architecture": "per_rank", "rank": 3, "alpha": 6, "width": 16, "heads": 2, "blocks": 2}
PAPER = {"architecture": "paper", "encoder": "base", "rank": 2, "alpha": 2, "projector_hidden": 24, "heads": 4}


def random_generator(base: BaseModel, settings: dict, seed: int = 0):
    """A generator with every parameter away from its start, as after training, so that its adapters change something."""
    torch.manual_seed(seed)
    generator = build_generator(settings, base)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    generator.begin_step(1000)
    return generator.eval()
