"""LiteLLM, as a proxy or library calls an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices otherwise
import litellm
from calls import MESSAGES, QUESTION, SCHEMA, TOOL, run

litellm.suppress_debug_info = True


def place(server):
    return {"model": f"openai/{server.model}", "api_base": server.url, "api_key": server.key, "num_retries": 0}


def chat(server, **fields):
    return litellm.completion(**place(server), messages=MESSAGES, **{"max_tokens": 8, "temperature": 0, **fields})


def asynchronous(server):
    async def ask():
        made = await litellm.acompletion(**place(server), messages=MESSAGES, max_tokens=8, temperature=0)
        return made.choices[0].message.content

    return asyncio.run(ask())


def responses(server):
    return litellm.responses(**place(server), input=QUESTION, max_output_tokens=8, temperature=0)


def schema(server):
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    return chat(server, max_tokens=40, response_format=wanted).choices[0].message.content


run("LiteLLM", version("litellm"), {
    "completion": lambda server: chat(server).choices[0].message.content,
    "completion, streamed": lambda server: "".join(c.choices[0].delta.content or "" for c in chat(server, stream=True)),
    "acompletion": asynchronous,
    "completion, JSON schema": schema,
    "completion, tools": lambda server: chat(server, tools=[TOOL]),
    "responses": lambda server: responses(server).output[0].content[0].text,
})  # fmt: skip
