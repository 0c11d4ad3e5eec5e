"""LlamaIndex' LLM for a gateway. Needs the extra `llama-index`.

    from distilledprag.integrations.llama_index import DistilledPRAGLLM
    response = DistilledPRAGLLM(api_key="...").complete("In which city does Ingrid Lindovic live?")
    response.text, response.additional_kwargs["distilledprag"]["passages"]

Built on `llama-index-core` and the `openai` client directly: LlamaIndex' own OpenAI package restricts their versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from openai import OpenAI
from pydantic import Field, PrivateAttr

from distilledprag.integrations import BASE_URL, DETAILS, MODEL


class DistilledPRAGLLM(CustomLLM):
    """Asks a gateway. An answer's `additional_kwargs["distilledprag"]` holds the passages, what was sent and the seconds.

    options: the gateway's own options for every question, such as `{"top_k": 2}`. Raises the `openai` client's errors.
    """

    base_url: str = Field(default=BASE_URL, description="The gateway's address, ending in /v1.")
    api_key: str = Field(default="none", description="The gateway's key, if it needs one.", repr=False)
    model: str = Field(default=MODEL, description="distilledprag, or distilledprag:closed_book.")
    max_tokens: int = Field(default=256, description="Most tokens of an answer.")
    temperature: float = Field(default=0.0, description="0: always the most probable token.")
    context_window: int = Field(default=2048, description="Tokens that the engine's model reads.")
    options: dict[str, Any] = Field(default_factory=dict, description="The gateway's own options, for every question.")
    _client: OpenAI | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        return "DistilledPRAG"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window, num_output=self.max_tokens, is_chat_model=True, model_name=self.model
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        made = self._ask(messages, kwargs)
        message = ChatMessage(role=MessageRole.ASSISTANT, content=made.choices[0].message.content or "")
        return ChatResponse(message=message, raw=made, additional_kwargs=_details(made))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        chunks = self._ask(messages, kwargs, stream=True)

        def responses() -> ChatResponseGen:
            text = ""
            details: dict[str, Any] = {}
            for chunk in chunks:
                piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                text, details = text + piece, _details(chunk) or details
                message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
                yield ChatResponse(message=message, delta=piece, raw=chunk, additional_kwargs=details)

        return responses()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        made = self.chat([ChatMessage(role=MessageRole.USER, content=prompt)], **kwargs)
        return CompletionResponse(text=made.message.content or "", raw=made.raw, additional_kwargs=made.additional_kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        answers = self.stream_chat([ChatMessage(role=MessageRole.USER, content=prompt)], **kwargs)

        def responses() -> CompletionResponseGen:
            for made in answers:
                text = made.message.content or ""
                yield CompletionResponse(text=text, delta=made.delta, raw=made.raw, additional_kwargs=made.additional_kwargs)

        return responses()

    def _ask(self, messages: Sequence[ChatMessage], settings: dict[str, Any], stream: bool = False) -> Any:
        if self._client is None:
            self._client = OpenAI(base_url=self.base_url, api_key=self.api_key)
        sent: list[Any] = [{"role": message.role.value, "content": message.content or ""} for message in messages]
        fields = {"model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature, **settings}
        if self.options:
            fields.setdefault("extra_body", {DETAILS: self.options})
        return self._client.chat.completions.create(messages=sent, stream=stream, **fields)


def _details(made: Any) -> dict[str, Any]:
    details = getattr(made, DETAILS, None)
    return {DETAILS: details} if details else {}
