"""Files -> passages: a reader for each format, and splitting."""

from distilledprag.documents.loading import load_file, load_passages
from distilledprag.documents.passages import Passage

__all__ = ["Passage", "load_file", "load_passages"]
