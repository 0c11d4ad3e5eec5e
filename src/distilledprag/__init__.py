"""DistilledPRAG: ask an LLM about documents that it never sees.

from distilledprag import DistilledPRAG

prag = DistilledPRAG.from_pretrained()
prag.answer("Where does Anna Tovik live?", documents=["Anna Tovik lives in Marlow."]).text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilledprag.lora.weights import LoraWeights
    from distilledprag.pipeline import DistilledPRAG

__version__ = "0.1.0"
__all__ = ["DistilledPRAG", "LoraWeights", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first asked for, so that `import distilledprag` stays light."""
    if name == "DistilledPRAG":
        from distilledprag.pipeline import DistilledPRAG

        return DistilledPRAG
    if name == "LoraWeights":
        from distilledprag.lora.weights import LoraWeights

        return LoraWeights
    raise AttributeError(f"module 'distilledprag' has no attribute {name!r}")
