"""Earlier methods of parametric retrieval, to compare with: PRAG (prag.py, prag_adapters.py) and DyPRAG (dyprag.py)."""

from distilledprag.baselines.prag import AugmentedDocument, PragSettings, concatenated, documents_of_pairs
from distilledprag.baselines.prag_adapters import PragAdapters

__all__ = ["AugmentedDocument", "PragAdapters", "PragSettings", "concatenated", "documents_of_pairs"]
