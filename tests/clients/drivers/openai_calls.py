"""The official Python client, as its README and cookbook call it."""

from __future__ import annotations

import asyncio

import openai
from calls import MESSAGES, QUESTION, SCHEMA, TOOL, run


def client(server):
    return openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)


def chat(server, **fields):
    return client(server).chat.completions.create(
        model=server.model, messages=MESSAGES, **{"max_tokens": 8, "temperature": 0, **fields}
    )


def streamed(server):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chat(server, stream=True))


def usage_of_stream(server):
    return list(chat(server, stream=True, stream_options={"include_usage": True}))[-1].usage.total_tokens


def asynchronous(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0) as own:
            made = await own.chat.completions.create(model=server.model, messages=MESSAGES, max_tokens=8, temperature=0)
            return made.choices[0].message.content

    return asyncio.run(ask())


def schema(server):
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    return chat(server, max_tokens=40, response_format=wanted).choices[0].message.content


def responses(server, **fields):
    return client(server).responses.create(model=server.model, input=QUESTION, instructions="Be brief.",
                                           **{"max_output_tokens": 8, "temperature": 0, **fields})  # fmt: skip


run("openai (Python)", openai.__version__, {
    "models, listed": lambda server: [model.id for model in client(server).models.list()],
    "models, one": lambda server: client(server).models.retrieve(server.model).id,
    "chat": lambda server: chat(server).choices[0].message.content,
    "chat, streamed": streamed,
    "chat, usage of a stream": usage_of_stream,
    "chat, asynchronous": asynchronous,
    "chat, stop": lambda server: chat(server, stop=["\n\n"]).choices[0].finish_reason,
    "chat, n=2": lambda server: len(chat(server, n=2, temperature=1).choices) == 2,
    "chat, logprobs": lambda server: chat(server, logprobs=True, top_logprobs=2).choices[0].logprobs.content,
    "chat, JSON schema": schema,
    "chat, max_tokens above the engine's bound": lambda server: chat(server, max_tokens=100_000).choices[0].message.content,
    "chat, tools": lambda server: chat(server, tools=[TOOL]),
    "responses": lambda server: responses(server).output_text,
    "responses, streamed": lambda server: [e for e in responses(server, stream=True) if e.type == "response.output_text.delta"],
    "responses, previous_response_id": lambda server: responses(server, previous_response_id="resp_1"),
    "completions (text)": lambda server: client(server).completions.create(model=server.model, prompt=QUESTION).choices[0].text,
    "embeddings": lambda server: client(server).embeddings.create(model=server.model, input=QUESTION),
})  # fmt: skip
