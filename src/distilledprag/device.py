"""The one choice between GPU and CPU."""

from __future__ import annotations

import torch


def chosen_device(wanted: str | None = "auto") -> str:
    """The device that `wanted` names; "auto" and None: a CUDA GPU where there is one, else the CPU."""
    if wanted not in ("auto", None):
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
