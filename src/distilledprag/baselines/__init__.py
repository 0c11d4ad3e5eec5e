"""Earlier methods of parametric retrieval, to compare with: PRAG and DyPRAG. This room does not know the evaluation."""

from distilledprag.baselines.augmented import AugmentedDocument, documents_of_pairs
from distilledprag.baselines.prag import PragSettings, concatenated, train_adapter, train_adapters
from distilledprag.baselines.store import PragAdapters

__all__ = [
    "AugmentedDocument",
    "PragAdapters",
    "PragSettings",
    "concatenated",
    "documents_of_pairs",
    "train_adapter",
    "train_adapters",
]
