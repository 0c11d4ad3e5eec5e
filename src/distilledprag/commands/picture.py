"""A picture of which document tokens each slot of an adapter was made from (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from distilledprag.errors import ConfigError
from distilledprag.pipeline import DistilledPRAG


def draw_attention(prag: DistilledPRAG, passages: list[str], question: str, file: Path, layer: int | None = None) -> None:
    """Heat map: document tokens (across) by the rank slots of `down_proj` in one layer (down).

    layer: default, the one in the middle. Raises ConfigError for a generator without an attention map.
    """
    if not hasattr(prag.generator, "attention_map"):
        raise ConfigError(f"the {prag.generator.settings.architecture} generator has no attention map to draw")
    states = prag.generator.encode(prag.base, [passages])
    attention_map: Any = prag.generator.attention_map
    attention = attention_map(states)  # (L, K, S)
    layer = attention.size(0) // 2 if layer is None else layer
    rank, targets = prag.generator.settings.rank, prag.generator.settings.target_modules
    first = targets.index("down_proj") * rank if "down_proj" in targets else 0
    places = states.mask[0].nonzero().flatten()
    weights = attention[layer, first : first + rank][:, places].float().cpu()
    context = prag.prompts.context(passages)
    labels = [prag.base.tokenizer.decode([context.open_ids[place]]).strip() or " " for place in places.tolist()]
    order = torch.argsort((weights * torch.arange(weights.size(1))).sum(1) / weights.sum(1))
    figure, axes = plt.subplots(figsize=(max(10, 0.17 * len(labels)), 0.16 * rank + 2.4))
    image = axes.imshow(weights[order].sqrt(), aspect="auto", cmap="magma")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
    axes.set_yticks([])
    axes.set_ylabel(f"slots of layer {layer}, down_proj")
    axes.set_title(f"What each slot read (the question, not seen by the generator: {question})", fontsize=9)
    ends = torch.tensor([sum(context.is_document[place : place + 2]) == 1 for place in places.tolist()]).nonzero().flatten()
    for end in ends.tolist():
        axes.axvline(end + 0.5, color="white", linewidth=0.8)
    figure.colorbar(image, ax=axes, label="attention (square root)", pad=0.01)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)
