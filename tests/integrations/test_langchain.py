"""LangChain's real packages in front of a real gateway."""

import asyncio

import pytest

pytest.importorskip("langchain_openai")
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from distilledprag.integrations.langchain import ChatDistilledPRAG

QUESTION = "In which city does Ingrid Lindovic live?"


@pytest.fixture
def model(gateway_url):
    return ChatDistilledPRAG(base_url=f"{gateway_url}/v1", api_key="none")


def test_a_message_has_the_answer_and_what_was_sent(model):
    message = model.invoke(QUESTION)
    details = message.response_metadata["distilledprag"]
    assert message.content == "Dunmouth" and details["passages"][0]["source"] == "staff.txt"
    assert details["sent"]["adapter_bytes"] > 0 and message.usage_metadata["input_tokens"] > 10


def test_a_chain_streams_and_ends_with_the_details(model):
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == "Dunmouth"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.response_metadata["distilledprag"]["seconds"]["total"] > 0
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model | StrOutputParser()
    assert asyncio.run(chain.ainvoke({"question": QUESTION})) == "Dunmouth"


def test_the_gateways_options_are_passed_on(gateway_url):
    closed = ChatDistilledPRAG(
        base_url=f"{gateway_url}/v1", api_key="none", extra_body={"distilledprag": {"mode": "closed_book"}}
    )
    message = closed.invoke(QUESTION)
    assert message.content != "Dunmouth" and message.response_metadata["distilledprag"]["passages"] == []
