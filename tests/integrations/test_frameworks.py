"""LangChain's and LlamaIndex' real packages in front of a real gateway.

In one file, for one pair of servers; imported by fixtures, since collecting the tests would import both.
"""

import asyncio
from types import SimpleNamespace

import pytest

QUESTION = "In which city does Ingrid Lindovic live?"


@pytest.fixture
def langchain():
    pytest.importorskip("langchain_openai")
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    from distilledprag.integrations.langchain import ChatDistilledPRAG

    return SimpleNamespace(ours=ChatDistilledPRAG, prompt=ChatPromptTemplate, parser=StrOutputParser)


@pytest.fixture
def model(langchain, gateway_url):
    return langchain.ours(base_url=f"{gateway_url}/v1", api_key="none")


def test_a_message_has_the_answer_and_what_was_sent(model):
    message = model.invoke(QUESTION)
    details = message.response_metadata["distilledprag"]
    assert message.content == "Dunmouth" and details["passages"][0]["source"] == "staff.txt"
    assert details["sent"]["adapter_bytes"] > 0 and message.usage_metadata["input_tokens"] > 10


def test_a_chain_streams_and_ends_with_the_details(langchain, model):
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == "Dunmouth"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.response_metadata["distilledprag"]["seconds"]["total"] > 0
    chain = langchain.prompt.from_messages([("user", "{question}")]) | model | langchain.parser()
    assert asyncio.run(chain.ainvoke({"question": QUESTION})) == "Dunmouth"


def test_the_gateways_options_are_passed_on_from_langchain(langchain, gateway_url):
    closed = langchain.ours(base_url=f"{gateway_url}/v1", api_key="none", extra_body={"distilledprag": {"mode": "closed_book"}})
    message = closed.invoke(QUESTION)
    assert message.content != "Dunmouth" and message.response_metadata["distilledprag"]["passages"] == []


@pytest.fixture
def llama_index():
    pytest.importorskip("llama_index.core")
    from llama_index.core.llms import ChatMessage

    from distilledprag.integrations.llama_index import DistilledPRAGLLM

    return SimpleNamespace(ours=DistilledPRAGLLM, message=ChatMessage)


@pytest.fixture
def llm(llama_index, gateway_url):
    return llama_index.ours(base_url=f"{gateway_url}/v1")


def test_complete_has_the_answer_and_what_was_sent(llm):
    made = llm.complete(QUESTION)
    details = made.additional_kwargs["distilledprag"]
    assert made.text == "Dunmouth" and details["passages"][0]["source"] == "staff.txt" and details["sent"]["adapter_bytes"] > 0
    assert asyncio.run(llm.acomplete(QUESTION)).text == "Dunmouth"


def test_chat_streams_the_answer_and_ends_with_the_details(llama_index, llm):
    made = list(llm.stream_chat([llama_index.message(role="user", content=QUESTION)]))
    assert made[-1].message.content == "".join(one.delta for one in made) == "Dunmouth"
    assert made[-1].additional_kwargs["distilledprag"]["seconds"]["total"] > 0


def test_options_and_history_reach_the_gateway_from_llama_index(llama_index, llm, gateway_url):
    closed = llama_index.ours(base_url=f"{gateway_url}/v1", options={"mode": "closed_book"})
    assert closed.complete(QUESTION).text != "Dunmouth"
    turns = [("user", "Hello?"), ("assistant", "Hello!"), ("user", QUESTION)]
    with_history = llm.chat([llama_index.message(role=role, content=content) for role, content in turns])
    assert with_history.additional_kwargs["distilledprag"]["passages"]


def test_the_key_is_not_shown(llama_index):
    assert "secret-secret" not in repr(llama_index.ours(api_key="secret-secret"))
