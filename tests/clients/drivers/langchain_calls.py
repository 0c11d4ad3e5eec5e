"""LangChain's ChatOpenAI, unchanged."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from calls import QUESTION, SCHEMA, TOOL, run
from langchain_openai import ChatOpenAI

ASKED = [("system", "Be brief."), ("user", QUESTION)]


def model(server, **fields):
    settings = {"max_tokens": 8, "temperature": 0, "max_retries": 0, **fields}
    return ChatOpenAI(base_url=server.url, api_key=server.key, model=server.model, **settings)


run("LangChain (ChatOpenAI)", version("langchain-openai"), {
    "invoke": lambda server: model(server).invoke(ASKED).content,
    "stream": lambda server: "".join(chunk.content for chunk in model(server).stream(ASKED)),
    "batch": lambda server: [made.content for made in model(server).batch([ASKED, ASKED])],
    "ainvoke": lambda server: asyncio.run(model(server).ainvoke(ASKED)).content,
    "with_structured_output": lambda server: model(server, max_tokens=40).with_structured_output(
        SCHEMA, method="json_schema"
    ).invoke(ASKED)["kind"],
    "logprobs": lambda server: model(server).bind(logprobs=True).invoke(ASKED).response_metadata["logprobs"]["content"],
    "use_responses_api": lambda server: model(server, use_responses_api=True).invoke(ASKED).content,
    "bind_tools": lambda server: model(server).bind_tools([TOOL]).invoke(ASKED),
})  # fmt: skip
