"""A model class for lm-evaluation-harness (extra `lm-eval`): its tasks, answered with documents that the base LLM does not see.

    python -m distilledprag.evaluation.harness run --model distilledprag --include_path TASKS --tasks mine \\
        --model_args method=paper,generator=FOLDER,docs=papers,top_k=3

A request's documents are its row's field `documents` (a list of texts), else the `top_k` passages of `docs` that BM25 finds for
the request's text. The task's text is the question; prompts, decoding and methods are those of `dprag evaluate`.
This module run as a program is the harness' own command with the model `distilledprag` added; imported, it registers the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from rich.progress import track
from torch.nn import functional

from distilledprag.base.default import default_base
from distilledprag.base.llm import MAX_ANSWER_TOKENS, chosen_device, greedy_texts, load_base
from distilledprag.base.prepared import prepared_record
from distilledprag.documents import load_passages
from distilledprag.errors import ConfigError
from distilledprag.evaluation.methods import METHODS, Prepared, Question, Setting, mask_row, require_architecture
from distilledprag.generators import load_generator
from distilledprag.generators.interface import mask_embedded_as
from distilledprag.generators.state import PlainPath, StateGenerator
from distilledprag.lora.injection import inject, written_states
from distilledprag.prompts import PromptBuilder
from distilledprag.retrieval import BM25Retriever
from distilledprag.words import titled


@register_model("distilledprag")
class DistilledPRAGHarness(LM):
    """method: a name of `dprag evaluate`. base, generator: folder or hub id; without, the default base and no generator.
    docs: file or folder.

    Raises ConfigError for an unknown method, and for requests without documents where the method needs some.
    """

    def __init__(
        self,
        method: str = "rag",
        base: str | None = None,
        generator: str | None = None,
        docs: str | None = None,
        documents_field: str = "documents",
        top_k: int = 3,
        max_gen_toks: int = MAX_ANSWER_TOKENS,
        device: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if method not in METHODS or METHODS[method].shuffled:
            served = ", ".join(name for name, known in METHODS.items() if not known.shuffled)
            raise ConfigError(f"method={method!r} is not one of {served}")
        self.method, self.documents_field, self.top_k, self.longest = method, documents_field, int(top_k), int(max_gen_toks)
        automatic = chosen_device()  # the harness asks for a GPU unless told otherwise
        chosen = device if device and (automatic == "cuda" or not device.startswith("cuda")) else automatic
        folder = base or default_base()
        loaded = load_base(folder, device=chosen)
        if loaded.device.type == "cpu":
            loaded.model.float()  # processors compute half precision slowly
        generators, states, needs = {}, None, METHODS[method].needs
        prompts = PromptBuilder(loaded.tokenizer, loaded.mask_token_id, max_tokens=loaded.context_length - self.longest)
        if needs == "states":
            record = prepared_record(folder)
            states = StateGenerator(loaded, prompts, record.layer, PlainPath.of(folder, record))
        elif needs is not None:
            if needs == "prag":
                raise ConfigError(
                    "prag fine-tunes on questions about the documents, which the harness does not have; choose another"
                )
            if generator is None:
                raise ConfigError(f"{method} needs generator=FOLDER, a generator of this base")
            generators[needs] = require_architecture(needs, load_generator(generator, loaded))
        self.setting = Setting(loaded, prompts, generators, states=states)
        self.retriever = BM25Retriever(load_passages([Path(docs)])) if docs else None

    @property
    def tokenizer_name(self) -> str:
        return self.setting.base.identity.id

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer of each request, cut before the first of its stop texts."""
        texts = []
        for request in track(requests, "answers", disable=disable_tqdm):
            question, options = request.args
            made = METHODS[self.method](self.setting, [self._question(question, request)])
            longest = int(options.get("max_gen_toks", self.longest))
            stop_id = self.setting.prompts.end_of_turn_id
            with mask_embedded_as(self.setting.base, mask_row(self.setting, self.method)):
                text = greedy_texts(self.setting.base, made.prompts, made.adapters, stop_id, longest, made.states)[0]
            stops = options.get("until") or []
            for stop in [stops] if isinstance(stops, str) else stops:
                text = text.split(stop)[0] if stop else text
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log probability of the continuation after the prompt, whether greedy decoding would write it)."""
        found = []
        for request in track(requests, "likelihoods", disable=disable_tqdm):
            question, continuation = request.args
            made = METHODS[self.method](self.setting, [self._question(question, request)])
            answer = self.setting.base.tokenizer(" " + continuation.strip(), add_special_tokens=False).input_ids
            found.append(self._scored(made, answer))
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise ConfigError("perplexity tasks have no question and no documents; use tasks that generate or choose an answer")

    @torch.no_grad()
    def _scored(self, made: Prepared, answer: list[int]) -> tuple[float, bool]:
        base, prompt = self.setting.base, made.prompts[0]
        ids = torch.tensor([[*prompt, *answer]], device=base.device)
        with contextlib.ExitStack() as changes:
            changes.enter_context(mask_embedded_as(base, mask_row(self.setting, self.method)))
            if made.adapters is not None:
                changes.enter_context(inject(base.model, made.adapters))
            if made.states is not None:
                changes.enter_context(written_states(base.model, made.states, ids == base.mask_token_id))
            logits = base.model(input_ids=ids, use_cache=False).logits
        scores = functional.log_softmax(logits[0, len(prompt) - 1 : -1].float(), dim=-1)  # (answer tokens, V)
        wanted = ids[0, len(prompt) :]
        return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(-1) == wanted).all())

    def _question(self, question: str, request: Instance) -> Question:
        documents = self._documents(question, request)
        if not documents and self.method != "closed_book":
            raise ConfigError(
                f"a request of {request.task_name or 'the task'} has no documents; give docs=FOLDER, or rows with a list of "
                f"texts in the field {self.documents_field!r}"
            )
        return Question(question, passages=tuple(documents))

    def _documents(self, question: str, request: Instance) -> Sequence[str]:
        given = request.doc.get(self.documents_field) if isinstance(request.doc, dict) else None
        if given:
            return [str(text) for text in given]
        if self.retriever is None:
            return []
        found = self.retriever.retrieve(question, min(self.top_k, len(self.retriever.passages)))
        return [titled(passage.title, passage.text) for passage, _ in found]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
