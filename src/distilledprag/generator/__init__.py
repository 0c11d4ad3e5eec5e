"""Parameter generators: passages -> LoRA.

interface.py   what every generator is          paper.py        the paper's
registry.py    by name                          dyprag.py       DyPRAG's
checkpoint.py  on disk and on the Hub           base_states.py  document states from the base LLM itself
"""

from distilledprag.generator.checkpoint import generator_identity, load_generator
from distilledprag.generator.interface import DocumentStates, ParameterGenerator
from distilledprag.generator.registry import build_generator

__all__ = ["DocumentStates", "ParameterGenerator", "build_generator", "generator_identity", "load_generator"]
