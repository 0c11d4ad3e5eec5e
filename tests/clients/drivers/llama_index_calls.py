"""LlamaIndex' OpenAILike."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from calls import QUESTION, run
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

ASKED = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]


def model(server):
    place = {"api_base": server.url, "api_key": server.key, "model": server.model, "temperature": 0.0}
    return OpenAILike(**place, is_chat_model=True, max_tokens=8, max_retries=0, context_window=2048)


run("LlamaIndex (OpenAILike)", version("llama-index-llms-openai-like"), {
    "complete": lambda server: model(server).complete(QUESTION).text,
    "chat": lambda server: model(server).chat(ASKED).message.content,
    "stream_chat": lambda server: list(model(server).stream_chat(ASKED))[-1].message.content,
    "achat": lambda server: asyncio.run(model(server).achat(ASKED)).message.content,
})  # fmt: skip
