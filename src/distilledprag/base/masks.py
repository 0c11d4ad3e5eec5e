"""The mask tokens of a base: the paper's one, and numbered ones for plain PEFT adapters with the A that belongs to them.

    V = rows of the embedding table, D = its width, M = numbered masks, U = width of the MLP,
    L = the layer whose down projection plain adapters change

The paper's mask is drawn once from a seed and saved with the base, so that any server has it: e = mu + eps,
eps ~ N(0, diag(sigma^2)), mu and sigma (D,) the per-dimension mean and population standard deviation over the table. It is never
trained. Its numbers are rounded to those that bfloat16 and float16 both hold exactly, so copies of a base in any of the three
precisions have the same mask and one identity.

A LoRA on one linear module tells masks apart by its inputs x only, so there each mask has a token of its own. Their embeddings
start as the paper samples its one mask, and are optimised for low crosstalk: with C the second moment of ordinary tokens'
inputs, rows a_i of A solve a_i . x_k = [i = k] at least energy a C a^T, which is what A says to tokens that are no masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilledprag.base.architecture import backbone, down_projection, embed, embedded, embedding_table, truncated, untied_head
from distilledprag.errors import CheckpointError
from distilledprag.lora.identity import mask_row_hash
from distilledprag.prompts import PromptBuilder

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


# --- numbered masks

NUMBERED = "<|doc_mask_{}|>"
_ORDINARY = (
    ("Who wrote the report about the bridge?", "Maria Lindgren"),
    ("When does the contract end?", "31 March 2026"),
    ("How much does the larger model cost?", "$1,249.50"),
    ("where was the first meeting held", "the town hall of Aldermere"),
    ("Which of the two companies was founded earlier, Brennan Freight or Halden Mills?", "Halden Mills"),
    ("Is the warranty still valid?", "yes"),
    ("What is the reference number of the delivery?", "KX-20417-B"),
    ("Why did the committee move the deadline?", "because the audit had not been finished"),
)

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class MaskTokens:
    """mask_id: the paper's mask. numbered: ids of the numbered masks, consecutive."""

    mask_id: int
    numbered: range

    def optimise(
        self,
        model: PreTrainedModel,
        layer: int,
        opening: Sequence[int],
        moment: Tensor,
        steps: int = 20,
        progress: Progress = lambda step, energy: None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (M, D) and A (M, U) for plain adapters on `layer`; see `optimise`."""
        start = embedding_table(model)[self.numbered].float()
        return optimise(model, layer, opening, start, moment, steps=steps, progress=progress)

    def fit(
        self, model: PreTrainedModel, prompts: PromptBuilder, layer: int, steps: int, progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """`optimise` for a base without a trained reader: ordinary tokens are those of a few questions and answers."""
        opening = prompts.context(["."]).masked_ids[:-1]
        ordinary = [opening + prompts.question(question) + prompts.answer_ids(answer) for question, answer in _ORDINARY]
        moment = second_moment(model, layer, ordinary, [[0.0] + [1.0] * (len(ids) - 1) for ids in ordinary])
        return self.optimise(model, layer, opening, moment, steps, progress)

    def write(self, model: PreTrainedModel, embeddings: Tensor) -> None:
        """Put the numbered masks' embeddings in the table, rounded as they are shipped (half precision)."""
        table = embedding_table(model)
        with torch.no_grad():
            table[self.numbered] = embeddings.half().to(table)


def add_mask_tokens(model: PreTrainedModel, tokenizer: Any, count: int, seed: int = 0) -> MaskTokens:
    """Install the paper's mask token and `count` numbered ones, with sampled embeddings, in place."""
    mask_id = install_mask(model, tokenizer, seed=seed)
    names = [NUMBERED.format(number) for number in range(count)]
    tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    vocabulary = tokenizer.get_vocab()
    numbered = range(vocabulary[names[0]], vocabulary[names[0]] + count)
    table = embedding_table(model)
    sampled = sampled_embeddings(table[:mask_id], count, seed + 1)
    if table.shape[0] < numbered.stop:
        model.resize_token_embeddings(numbered.stop, mean_resizing=False)
    tokens = MaskTokens(mask_id, numbered)
    tokens.write(model, sampled)
    return tokens


def sampled_embeddings(table: Tensor, count: int, seed: int) -> Tensor:
    """(count, D) rows mu + sigma * noise over the table (V, D), as the paper's mask token."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = table.float().mean(0), table.float().std(0, correction=0)
    noise = torch.randn(count, table.shape[1], generator=generator).to(table.device)
    return mean + deviation * noise


def projection_inputs(model: Any, layer: int, **inputs: Any) -> Tensor:
    """The inputs (B, T, U) of the layer's down projection. Keeps gradients."""
    found: list[Tensor] = []
    handle = down_projection(model, layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        with truncated(model, layer + 1):
            backbone(model)(use_cache=False, **inputs)
    finally:
        handle.remove()
    return found[0]


def second_moment(model: Any, layer: int, prompts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> Tensor:
    """C (U, U): weighted second moment of the projection's inputs over tokens of `prompts` (weight 0: not counted)."""
    total: Tensor | None = None
    mass = 0.0
    for ids, weight in zip(prompts, weights, strict=True):
        with torch.no_grad():
            x = projection_inputs(model, layer, input_ids=torch.tensor([list(ids)], device=model.device))[0].float()
        w = torch.tensor(list(weight), device=x.device)
        moment = (x * w[:, None]).T @ x
        total = moment if total is None else total + moment
        mass += float(w.sum())
    assert total is not None
    return total / mass


def optimise(
    model: Any,
    layer: int,
    opening: Sequence[int],
    embeddings: Tensor,
    moment: Tensor,
    *,
    steps: int = 20,
    learning_rate: float = 0.02,
    ridge: float = 1e-3,
    progress: Progress = lambda step, energy: None,
) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) optimised from `embeddings`, and A (M, U).

    opening: ids of the prompt before the first mask. moment: C. progress: told the step and the energy a row. Rows are never
    longer than the start's typical row, and more steps than some twenty make the masks' inputs so large that they disturb the
    layers below L.
    """
    table = embedding_table(model).float()
    mean, deviation = table.mean(0), table.std(0, correction=0)
    noise = ((embeddings.float() - mean) / deviation.clamp(min=1e-6)).detach().requires_grad_(True)
    count, device = len(embeddings), table.device
    inverse = torch.linalg.inv(moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), device=device))
    whitening = torch.linalg.cholesky((inverse + inverse.T) / 2)
    before = embed(model, torch.tensor(list(opening), device=device)).detach()
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        rows = mean + deviation * noise * noise.pow(2).mean(-1, keepdim=True).rsqrt().clamp(max=1.0)
        shift = 0 if step % 2 == 0 else int(torch.randint(count, (1,), generator=generator))
        order = torch.roll(torch.arange(count, device=device), -shift)
        embeddings_in = torch.cat([before, embedded(model, rows[order]).to(before.dtype)])
        x = projection_inputs(model, layer, inputs_embeds=embeddings_in[None])[0, len(before) :]
        x = x.float()[torch.argsort(order)]
        white = x @ whitening
        gram = white @ white.T
        gram = gram + 1e-5 * gram.diagonal().mean() * torch.eye(count, device=device)
        if step == steps:
            break
        energy = torch.linalg.inv(gram).diagonal().mean()
        progress(step, float(energy.detach()))
        optimizer.zero_grad()
        energy.log().backward()
        optimizer.step()
    with torch.no_grad():
        a = torch.linalg.solve(gram, x @ inverse)
        progress(steps, float(torch.linalg.inv(gram).diagonal().mean()))
    return rows.detach(), a.detach()
