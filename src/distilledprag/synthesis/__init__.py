"""Question-answer pairs for training, written by an LLM about the user's documents (paper, "QA synthesis").

documents -> items (one document, or a random two) -> requests -> journal of replies -> checked pairs -> file for training
"""

from distilledprag.synthesis.journal import Journal
from distilledprag.synthesis.plan import Item, plan_items
from distilledprag.synthesis.run import QaSettings, Synthesis
from distilledprag.synthesis.sources import Document, Reading, read_documents

__all__ = ["Document", "Item", "Journal", "QaSettings", "Reading", "Synthesis", "plan_items", "read_documents"]
