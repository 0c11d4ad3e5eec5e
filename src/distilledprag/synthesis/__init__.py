"""Question-answer pairs for training, written by an LLM about the user's documents (paper, "QA synthesis").

documents -> items (one document, or a random two) -> requests -> journal of replies -> checked pairs -> file for training
"""

from distilledprag.synthesis.llm import Replies
from distilledprag.synthesis.run import QaSettings, Synthesis
from distilledprag.synthesis.sources import Document, DocumentSample, Item, plan_items, read_documents

__all__ = ["Document", "DocumentSample", "Item", "QaSettings", "Replies", "Synthesis", "plan_items", "read_documents"]
