"""Generators turn documents into the adapter that an LLM needs to answer questions about them.

state.py             ours: the passages' hidden states     interface.py         what a learned one is, by name, and its files
paper.py             the paper's                           document_states.py   what it reads of the passages
dyprag.py            DyPRAG's                              kept_states.py       passages' states on disk
sentence_choice.py   the sentences that a question needs, by words
cross_encoder.py     ... and by reading them with the question

Every module of this folder is imported here, so that a new generator is registered by its file being there.
"""

import importlib
import pkgutil

from distilledprag.generators.document_states import DocumentStates
from distilledprag.generators.interface import (
    ParameterGenerator,
    build_generator,
    generator_identity,
    load_generator,
    register,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DocumentStates", "ParameterGenerator", "build_generator", "generator_identity", "load_generator", "register"]
