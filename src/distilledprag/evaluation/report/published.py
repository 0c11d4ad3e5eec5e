"""Numbers that others published, as they stand in the paper (arXiv 2509.01088): average F1 (percent) over its eight columns and
seconds per question. They were measured on other machines and are never mixed with ours.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """f1: percent; seconds: per question, online; offline_seconds: per document, before."""

    base: str
    method: str
    f1: float
    seconds: float
    offline_seconds: float | None = None


PUBLISHED = (
    Published("Llama-3.2-1B", "rag", 24.6, 0.14),
    Published("Llama-3.2-1B", "prag", 27.0, 0.6, 18),
    Published("Llama-3.2-1B", "dyprag", 18.3, 0.52),
    Published("Llama-3.2-1B", "distilled_paper", 28.3, 0.3),
    Published("Llama-3-8B", "rag", 33.8, 0.52),
    Published("Llama-3-8B", "prag", 28.2, 1.18, 100),
    Published("Llama-3-8B", "dyprag", 29.6, 0.8),
    Published("Llama-3-8B", "distilled_paper", 36.1, 0.81),
)

ABLATIONS: dict[str, dict[str, float | None]] = {
    "losses (Llama-3-8B)": {"full": 36.1, "no-cosine": 34.7, "no-kl": 31.1, "no-cosine-no-kl": 30.0},
    "mask (Llama-3.2-1B)": {"full": 28.3, "random-mask": 25.8, "trainable-mask": 23.5, "no-mask": 23.3},
    "training data": {"full": None, "single-document": None},
}
