"""Files -> passages: readers for each format, and splitting."""

from distilledprag.documents.loading import load_file, load_passages
from distilledprag.documents.record import Passage

__all__ = ["Passage", "load_file", "load_passages"]
