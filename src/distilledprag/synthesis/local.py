"""A Hugging Face causal LM in this process as a LanguageModel. For much text, a server with `--base-url` is faster.

Waiting requests with the same sampling are generated together, left-padded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilledprag.base.llm import chosen_device
from distilledprag.errors import CheckpointError, EndpointError
from distilledprag.synthesis.llm import Reply, Request, RequestFailed


class LocalModel:
    """Answers up to `batch` requests at a time, on the first GPU or, without one, the CPU.

    Raises CheckpointError if transformers cannot load `path_or_id` as a causal LM.
    """

    def __init__(self, path_or_id: str, batch: int = 8) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path_or_id)
            self.model: Any = AutoModelForCausalLM.from_pretrained(path_or_id, dtype="auto")
        except Exception as error:  # transformers raises many kinds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"--model {path_or_id} cannot be loaded as a local model: {reason}; give a folder or hub id, or --base-url for "
                f"a model behind an endpoint"
            ) from error
        self.model.eval().to(chosen_device())
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.name = f"local:{path_or_id}"
        self.batch = batch
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._generating = asyncio.Lock()

    async def close(self) -> None:
        """Nothing to close: the memory goes with the object."""

    async def reply(self, request: Request) -> Reply:
        """The model's reply. Raises RequestFailed if the prompt leaves no room in the context."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        while not future.done():
            async with self._generating:
                if not future.done():
                    await self._generate()
        return future.result()

    async def _generate(self) -> None:
        """Answer the request that has waited longest together with others of the same sampling."""
        first = self._waiting[0][0]
        chosen = [pair for pair in self._waiting if _sampling(pair[0]) == _sampling(first)][: self.batch]
        self._waiting = [pair for pair in self._waiting if not any(pair is taken for taken in chosen)]
        results: Sequence[Reply | Exception]
        try:
            results = await asyncio.to_thread(self._answers, [request for request, _ in chosen])
        except torch.OutOfMemoryError:
            full = EndpointError(f"{self.name} ran out of memory with {len(chosen)} requests at once; lower --concurrency")
            results = [full] * len(chosen)
        for (_, future), result in zip(chosen, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Reply):
                future.set_result(result)
            else:
                future.set_exception(result)

    @torch.no_grad()
    def _answers(self, requests: list[Request]) -> list[Reply | RequestFailed]:
        prompts = [self._prompt_ids(request) for request in requests]
        room = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        results: list[Reply | RequestFailed] = [
            RequestFailed(f"the prompt does not fit into the model's context of {room} tokens") for _ in requests
        ]
        fitting = [row for row, ids in enumerate(prompts) if len(ids) < room]
        if not fitting:
            return results
        longest = max(len(prompts[row]) for row in fitting)
        ids = torch.full((len(fitting), longest), self.tokenizer.pad_token_id)
        attention = torch.zeros(len(fitting), longest, dtype=torch.long)
        for place, row in enumerate(fitting):
            ids[place, longest - len(prompts[row]) :] = torch.tensor(prompts[row])
            attention[place, longest - len(prompts[row]) :] = 1
        temperature = requests[0].temperature
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        output = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=attention.to(self.model.device),
            max_new_tokens=min(requests[0].max_tokens, room - longest),
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )[:, longest:].tolist()
        ends = self._end_ids()
        for row, written in zip(fitting, output, strict=True):
            stop = next((place for place, token in enumerate(written) if token in ends), None)
            answer = written if stop is None else written[:stop]
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            results[row] = Reply(text, len(prompts[row]), len(answer), "length" if stop is None else "stop")
        return results

    def _prompt_ids(self, request: Request) -> list[int]:
        """The chat in the model's template; for a model without one, the messages with an empty line after each."""
        if self.tokenizer.chat_template:
            return list(
                self.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            )
        return list(self.tokenizer("\n\n".join(message["content"] for message in request.messages) + "\n\n")["input_ids"])

    def _end_ids(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        ids = ends if isinstance(ends, list) else [ends]
        return {token for token in [*ids, self.tokenizer.eos_token_id] if token is not None}


def _sampling(request: Request) -> tuple[float | None, int]:
    return request.temperature, request.max_tokens
