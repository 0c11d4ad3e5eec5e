"""A tiny base LM with random weights, the record world's tokenizer and a mask token, shared by the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import PER_RANK, random_generator, save_tiny_base

from distilledprag.base_model import BaseModel, load_base


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base", seed=0)


@pytest.fixture(scope="session")
def other_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "other-base", seed=1)


@pytest.fixture(scope="session")
def tiny_base(tiny_base_folder: Path) -> BaseModel:
    return load_base(tiny_base_folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_generator_folder(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "generator"
    random_generator(tiny_base, PER_RANK).save_pretrained(folder)
    return folder
