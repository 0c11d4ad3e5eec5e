"""Document states: what a frozen encoder gives a learned generator to read of the passages.

    B = prompts   S = document tokens (padded)   N = state layers   D = state dimension

Two encoders, both frozen. `base_document_states` takes the hidden states of the base LLM over the prompt's context: they are the
states that the teacher's forward pass computes anyway. `TextEncoder` is any text model from Hugging Face: an encoder (BERT), the
encoder of an encoder-decoder (the paper's LongT5), a decoder (GPT-2).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from distilledprag.base.architecture import all_hidden_states
from distilledprag.base.llm import BaseLLM
from distilledprag.errors import CheckpointError, InputError
from distilledprag.lora.identity import mask_row_hash
from distilledprag.prompts import PromptBuilder

# What decides the meaning of an encoder's states; other fields of a configuration change when a model is saved again.
_CONFIG_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "d_ff",
    "d_kv",
    "feed_forward_proj",
    "encoder_attention_type",
    "local_radius",
    "global_block_size",
)


@dataclass
class DocumentStates:
    """`states`: (N, B, S, D) frozen encoder states of the passages' tokens; `mask`: (B, S) bool, False on padding."""

    states: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> DocumentStates:
        """The same states on another device."""
        return DocumentStates(self.states.to(device), self.mask.to(device))

    def require_text(self) -> None:
        """Raises InputError when one of the prompts has no document token."""
        if not bool(self.mask.any(dim=1).all()):
            raise InputError("a prompt has no document to make an adapter from; pass at least one passage with text")


@torch.no_grad()
def base_document_states(base: BaseLLM, prompts: PromptBuilder, passages: Sequence[Sequence[str]]) -> DocumentStates:
    """Hidden states (layers + 1, B, S, D) of the base over each prompt's context; the mask is True on document tokens only.

    The states of a token depend on what stands before it only, so they are those of the teacher's forward pass.
    Raises InputError for a prompt whose passages have no token at all, or more than the base reads.
    """
    contexts = [prompts.context(texts) for texts in passages]
    for number, context in enumerate(contexts, start=1):
        if not any(context.is_document):
            raise InputError(f"prompt {number} of {len(contexts)} has no document text to encode; pass at least one passage")
    longest = max(len(context) for context in contexts)
    if longest > base.context_length:
        raise InputError(
            f"the passages make a prompt of {longest} tokens, {longest - base.context_length} more than the "
            f"{base.context_length} the model reads; use fewer or shorter passages"
        )
    ids = torch.zeros(len(contexts), longest, dtype=torch.long)
    mask = torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        ids[row, : len(context)] = torch.tensor(context.open_ids)
        mask[row, : len(context)] = torch.tensor(context.is_document)
    # Right padding needs no attention mask: a causal model's states never depend on what comes after them.
    states = all_hidden_states(base.model, input_ids=ids.to(base.device))
    return DocumentStates(torch.stack(states), mask.to(base.device))


class TextEncoder:
    """A frozen text model. `width`: D. `limit`: most tokens of a text that are read. See `load`.

    It is no submodule of a generator, so that no optimizer trains it and no checkpoint holds it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, longest: int) -> None:
        """longest: wanted limit; a model with a table of positions may allow fewer."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(model.config.hidden_size)
        positions = getattr(model.config, "max_position_embeddings", None)  # None: relative positions, as in T5
        self.limit = longest if positions is None else min(longest, positions, tokenizer.model_max_length)

    @classmethod
    def load(cls, path_or_id: str, longest: int) -> TextEncoder:
        """Load model and tokenizer from a folder or a hub id, in the precision they are stored in.

        Raises CheckpointError when they cannot be loaded, the weights are incomplete or the tokenizer is another model's.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path_or_id)
            model, report = AutoModel.from_pretrained(path_or_id, output_loading_info=True)
        except Exception as error:  # transformers raises errors of every kind
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(
                f"the document encoder {path_or_id!r} cannot be loaded ({reason}); give a folder or a hub id that can be "
                "reached, or `encoder: base`"
            ) from error
        encoder = model.get_encoder()
        if not isinstance(encoder, PreTrainedModel):  # BERT's `encoder` is its layers without the embeddings
            encoder = model
        unused = ("pooler.",) if encoder is model else ("pooler.", "decoder.")
        wrong = sorted(k for k in map(str, [*report["missing_keys"], *report["mismatched_keys"]]) if not k.startswith(unused))
        if wrong:
            raise CheckpointError(
                f"the weights of the document encoder {path_or_id!r} lack {len(wrong)} tensors or have them in the wrong shape, "
                f"{wrong[0]} first; copy the encoder again"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        rows = encoder.get_input_embeddings().weight.shape[0]
        if tokenizer.pad_token is None or max(tokenizer.get_vocab().values()) >= rows:
            raise CheckpointError(
                f"the tokenizer of the document encoder {path_or_id!r} does not fit it: it has no padding token, or writes ids "
                f"beyond the {rows} rows of the embedding table; copy both files from the same place"
            )
        return cls(encoder, tokenizer, longest)

    @property
    def fingerprint(self) -> str:
        """Hash (16 hex digits) of the architecture and of one embedding row; the same for every path and precision."""
        fields = {name: getattr(self.model.config, name, None) for name in _CONFIG_FIELDS}
        table = self.model.get_input_embeddings().weight
        fields["row"] = mask_row_hash(table[len(table) // 2])
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device | str) -> DocumentStates:
        """States (1, B, S, D) of the last layer and their mask; always in the model's own precision, also in training.

        Raises InputError for a text of spaces only; warns when a text is longer than `limit` tokens.
        """
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                raise InputError(f"prompt {number} of {len(texts)} has no document text to encode; pass at least one passage")
        tokens = self.tokenizer(
            list(texts), return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=self.limit
        ).to(device)
        if tokens.input_ids.shape[1] == self.limit:
            self._warn_of_cuts(texts)
        with torch.autocast(torch.device(device).type, enabled=False):
            states = self.model.to(device)(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return DocumentStates(states[None], tokens.attention_mask.bool())

    def _warn_of_cuts(self, texts: Sequence[str]) -> None:
        cut = sum(len(ids) > self.limit for ids in self.tokenizer(list(texts)).input_ids)
        if cut:
            warnings.warn(
                f"the passages of {cut} of {len(texts)} prompts are longer than the {self.limit} tokens the document encoder "
                "reads; the rest of them is left out",
                stacklevel=4,
            )
