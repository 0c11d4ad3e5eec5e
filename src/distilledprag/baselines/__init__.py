"""Earlier methods of parametric retrieval, to compare with: PRAG (prag.py) and DyPRAG (dyprag.py)."""

from distilledprag.baselines.prag import AugmentedDocument, PragAdapters, PragSettings, concatenated, documents_of_pairs

__all__ = ["AugmentedDocument", "PragAdapters", "PragSettings", "concatenated", "documents_of_pairs"]
