"""Parameter generators: documents in, the adapter that an LLM needs to answer about them out.

state.py       ours: the passages' hidden states       interface.py   what every learned generator is
choosing.py    the sentences that a question needs     registry.py    learned generators by name
paper.py       the paper's                             checkpoint.py  on disk and on the Hub
dyprag.py      DyPRAG's
"""

from distilledprag.generators.checkpoint import generator_identity, load_generator
from distilledprag.generators.interface import DocumentStates, ParameterGenerator
from distilledprag.generators.registry import build_generator

__all__ = ["DocumentStates", "ParameterGenerator", "build_generator", "generator_identity", "load_generator"]
