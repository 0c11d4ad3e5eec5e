"""LangChain's chat model for a gateway. Needs the extra `langchain`.

from distilledprag.integrations.langchain import ChatDistilledPRAG
message = ChatDistilledPRAG(api_key="...").invoke("In which city does Ingrid Lindovic live?")
message.content, message.response_metadata["distilledprag"]["passages"]
"""

from __future__ import annotations

from typing import Any

from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import Field

from distilledprag.integrations import BASE_URL, DETAILS, MODEL


class ChatDistilledPRAG(BaseChatOpenAI):
    """`BaseChatOpenAI` with the gateway's address and model as defaults, and with what the gateway adds to an answer.

    A message's `response_metadata["distilledprag"]` holds the passages, what was sent and the seconds it took; in a streamed
    answer, the last chunk's does. The gateway's own options: `extra_body={"distilledprag": {"top_k": 2}}`.
    """

    openai_api_base: str | None = Field(default=BASE_URL, alias="base_url")
    model_name: str = Field(default=MODEL, alias="model")

    @property
    def _llm_type(self) -> str:
        return "distilledprag"

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        fields = response if isinstance(response, dict) else response.model_dump()
        for generation in result.generations:
            generation.message.response_metadata[DETAILS] = fields.get(DETAILS)
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        finished = any(choice.get("finish_reason") for choice in chunk.get("choices", []))
        if made is not None and finished and chunk.get(DETAILS):  # the first chunk has details too, but not all timings
            made.message.response_metadata[DETAILS] = chunk[DETAILS]
        return made
