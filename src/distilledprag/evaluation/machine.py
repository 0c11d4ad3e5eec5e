"""Versions and hardware, for the record. Knows nothing about what was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """`versions` and `hardware` of this process."""
    versions = {name: importlib.metadata.version(name) for name in ("distilledprag", "torch", "transformers", "peft")}
    hardware = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["accelerator"] = torch.cuda.get_device_name()
    return {"versions": {**versions, "python": platform.python_version()}, "hardware": hardware}
