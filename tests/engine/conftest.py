"""An engine over a tiny base on a real socket, clients of two tenants, and adapters for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from engine_cases import DOCUMENTS, KEY, METRICS_KEY, OTHER_KEY, QUESTIONS, Running
from served import served
from starlette.types import ASGIApp

from distilledprag.base.llm import BaseLLM, load_base
from distilledprag.engine.application import Metrics, build_application
from distilledprag.engine.backend import Backend
from distilledprag.engine.service import Engine, Settings
from distilledprag.http.middleware import ApiKeys
from distilledprag.pipeline import DistilledPRAG


@pytest.fixture(scope="session")
def prag(tiny_base):
    return DistilledPRAG(tiny_base, layer=1)


@pytest.fixture(scope="session")
def adapter_bytes(prag):
    """State adapters, one a document."""
    return [prag.encode_states([document]).to_bytes() for document in DOCUMENTS]


@pytest.fixture(scope="session")
def masked_prompts(prag):
    pairs = zip(QUESTIONS, DOCUMENTS, strict=True)
    return [prag.prompts.build(question, [document]).masked_ids for question, document in pairs]


@pytest.fixture(scope="session")
def engine_base(tiny_base_folder):
    """A base of its own: the engine's thread is the only one that may run it."""
    return load_base(tiny_base_folder, dtype=torch.float32)


@pytest.fixture
def start_engine(engine_base):
    """A function that starts an engine with the given settings; the test's end stops it."""
    with contextlib.ExitStack() as stack:

        def start(
            settings: Settings | None = None,
            build: Callable[..., ASGIApp] = build_application,
            backend: Backend | None = None,
            base: BaseLLM = engine_base,
        ) -> Running:
            engine = Engine(base, settings, backend=backend)
            app = build(engine, ApiKeys([KEY, OTHER_KEY]), Metrics(), ApiKeys([METRICS_KEY]))
            return Running(stack.enter_context(served(app)), engine)

        yield start


@pytest.fixture
def running(start_engine):
    return start_engine()
