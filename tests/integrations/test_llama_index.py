"""LlamaIndex' real package in front of a real gateway."""

import asyncio

import pytest

pytest.importorskip("llama_index.core")
from llama_index.core.llms import ChatMessage

from distilledprag.integrations.llama_index import DistilledPRAGLLM

QUESTION = "In which city does Ingrid Lindovic live?"


@pytest.fixture
def llm(gateway_url):
    return DistilledPRAGLLM(base_url=f"{gateway_url}/v1")


def test_complete_has_the_answer_and_what_was_sent(llm):
    made = llm.complete(QUESTION)
    details = made.additional_kwargs["distilledprag"]
    assert made.text == "Dunmouth" and details["passages"][0]["source"] == "staff.txt" and details["sent"]["adapter_bytes"] > 0
    assert asyncio.run(llm.acomplete(QUESTION)).text == "Dunmouth"


def test_chat_streams_the_answer_and_ends_with_the_details(llm):
    made = list(llm.stream_chat([ChatMessage(role="user", content=QUESTION)]))
    assert made[-1].message.content == "".join(one.delta for one in made) == "Dunmouth"
    assert made[-1].additional_kwargs["distilledprag"]["seconds"]["total"] > 0


def test_options_and_history_reach_the_gateway(gateway_url):
    closed = DistilledPRAGLLM(base_url=f"{gateway_url}/v1", options={"mode": "closed_book"})
    assert closed.complete(QUESTION).text != "Dunmouth"
    messages = [ChatMessage(role="user", content="Hello?"), ChatMessage(role="assistant", content="Hello!")]
    with_history = DistilledPRAGLLM(base_url=f"{gateway_url}/v1").chat([*messages, ChatMessage(role="user", content=QUESTION)])
    assert with_history.additional_kwargs["distilledprag"]["passages"]


def test_the_key_is_not_shown():
    assert "secret-secret" not in repr(DistilledPRAGLLM(api_key="secret-secret"))
