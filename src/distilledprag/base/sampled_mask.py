"""The mask token of a base model (the paper's), drawn once from a seed and saved with the base so that any server has it.

    V = rows of the embedding table, D = its width

The row is e = mu + eps, eps ~ N(0, diag(sigma^2)), mu and sigma (D,) the per-dimension mean and population
standard deviation over the table (the paper's mask token). It is never trained. Its numbers are rounded to
those that bfloat16 and float16 both hold exactly, so copies of a base in any of the three precisions have the
same mask and one identity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilledprag.base.architecture import embedding_table, untied_head
from distilledprag.errors import CheckpointError
from distilledprag.lora.identity import mask_row_hash

MASK_TOKEN = "<|doc_mask|>"
CONFIG_KEY = "distilledprag_mask"
_CHUNK = 4096  # rows of the table held in float64 at a time


@dataclass(frozen=True)
class MaskRecord:
    """What the base's config says about its mask; `row_hash` is `lora.identity.mask_row_hash` of its row."""

    token: str
    id: int
    seed: int
    row_hash: str


def install_mask(model: PreTrainedModel, tokenizer: Any, *, seed: int = 0, token: str = MASK_TOKEN) -> int:
    """Give `model` and `tokenizer` a mask token, in place, and return its id.

    Uses the token if the tokenizer reserves it; else adds it as a special token, in an unused row of the
    table where there is one and in a new row otherwise. Depends on `seed` and the table only, and leaves the
    global random state as it was. Doing it again changes nothing.

    Raises CheckpointError when the base has a mask of another seed or token, a mask that no longer matches
    its record, or uses `token` for something else.
    """
    record = mask_record(model)
    if record is not None:
        return _installed(model, tokenizer, record, seed, token)
    index = _reserve(tokenizer, token)
    reused = index < embedding_table(model).shape[0]
    row = sample_row(embedding_table(model), seed, skip=index if reused else None)
    if not reused:
        _grow(model, index + 1)
    with torch.no_grad():
        table = embedding_table(model)
        head = untied_head(model)
        if head is not None:
            # The mean row's logit is the mean logit, so the mask is never the likeliest next token.
            head[index] = _moments(head, skip=index)[0].to(head)
        table[index] = row.to(table)
    _set_record(model, MaskRecord(token, index, seed, mask_row_hash(table[index])))
    return index


def sample_row(table: Tensor, seed: int, *, skip: int | None = None) -> Tensor:
    """One mask row (D,) float32 for the embedding `table` (V, D), whose row `skip` does not count."""
    mean, deviation = _moments(table, skip)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    noise = torch.randn(table.shape[1], generator=generator, dtype=torch.float32)
    row = (mean + deviation * noise.double()).bfloat16().half().bfloat16().float()
    if not torch.isfinite(row).all():
        raise CheckpointError("the base's embedding table holds numbers that are not finite; copy the base again")
    return row


def mask_record(model: PreTrainedModel) -> MaskRecord | None:
    """The mask the base's config names, or None. Raises CheckpointError for a record that cannot be read."""
    found = getattr(model.config, CONFIG_KEY, None)
    if found is None:
        return None
    try:
        record = MaskRecord(**found)
        return MaskRecord(str(record.token), int(record.id), int(record.seed), str(record.row_hash))
    except (TypeError, ValueError):
        raise CheckpointError(f"config.json of the base has an unreadable {CONFIG_KEY!r}: {found!r}") from None


def check_mask(model: PreTrainedModel, tokenizer: Any, record: MaskRecord) -> None:
    """Raise CheckpointError unless the tokenizer and the embedding table hold the mask that `record`
    describes.
    """
    table = embedding_table(model)
    if tokenizer.get_vocab().get(record.token) != record.id or not 0 <= record.id < table.shape[0]:
        raise CheckpointError(
            f"the base's config says its mask token {record.token!r} has id {record.id}, its tokenizer or "
            "embedding table says otherwise; the folder mixes files of two bases: install the mask again "
            "from the original base"
        )
    if mask_row_hash(table[record.id]) != record.row_hash:
        raise CheckpointError(
            f"the embedding row of the mask token {record.token!r} is not the one that was installed (was "
            "the base trained or quantized since?); install the mask again from the original base"
        )


def _installed(model: PreTrainedModel, tokenizer: Any, record: MaskRecord, seed: int, token: str) -> int:
    if (record.token, record.seed) != (token, seed):
        raise CheckpointError(
            f"the base already has the mask token {record.token!r} made with seed {record.seed}, not "
            f"{token!r} with seed {seed}; adapters made for it would no longer fit. Start from the original"
        )
    check_mask(model, tokenizer, record)
    return record.id


def _reserve(tokenizer: Any, token: str) -> int:
    """The id of `token` as a special token of the tokenizer, added if need be."""
    known = {added.content: added for added in tokenizer.added_tokens_decoder.values()}
    if token in known and not known[token].special:
        raise CheckpointError(f"the tokenizer uses {token!r} as an ordinary word; choose another mask token")
    tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
    return int(tokenizer.get_vocab()[token])


def _grow(model: PreTrainedModel, rows: int) -> None:
    """Give the embedding table (and head) `rows` rows; new ones hold the mean of the old ones."""
    old = embedding_table(model).shape[0]
    device = embedding_table(model).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for table in (embedding_table(model), untied_head(model)):
            if table is not None:
                table[old:] = _moments(table[:old])[0].to(table)


def _moments(table: Tensor, skip: int | None = None) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation (D,) over the rows of `table` (V, D) other than `skip`, in
    float64.

    Float64 sums keep the result independent of the machine's number of threads.
    """
    table = table.detach()
    parts = [table] if skip is None else [table[:skip], table[skip + 1 :]]
    chunks = [chunk for part in parts if len(part) for chunk in part.split(_CHUNK)]
    count = sum(len(chunk) for chunk in chunks)
    mean = torch.stack([chunk.cpu().double().sum(0) for chunk in chunks]).sum(0) / count
    squares = torch.stack([((chunk.cpu().double() - mean) ** 2).sum(0) for chunk in chunks]).sum(0)
    return mean, (squares / count).sqrt()


def _set_record(model: PreTrainedModel, record: MaskRecord) -> None:
    setattr(model.config, CONFIG_KEY, asdict(record))
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        # With tied embeddings the mask's logit could win; a mask is never an answer.
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or []), record.id})
