"""The attackers. Most read an adapter's rows: each is fitted on adapters of other passages, then writes the tokens of unseen
ones. One is the base itself: whoever holds base and adapter can put the adapter under any prompt and ask.

    N = rows of an adapter   W = numbers in a row   V = tokens of the vocabulary   E = width of the embedding table   F = N W

nearest    the token whose embedding is most like the row
linear     rows that stand for tokens: ridge regression from a row to the embedding of each of its tokens, nearest embedding of
           that; other rows: ridge regression from all F numbers to which tokens the passage holds (in closed form over
           passages)
decoder    a transformer of two layers over the rows, trained on pairs; of rows that stand for tokens it writes each row's
           tokens, of others a token for each place of the passage. `shuffled`: the rows come in random order, and it must guess
           the order too
repeat     the base, told "Repeat the passage word for word." and the like; the wording that gets most counts
questions  the base, asked templated questions about other facts of the passage than the one that was asked (and that chose the
           rows)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilledprag.audit.adapters import Dial, Held, Passage, loras_of, states_of
from distilledprag.base.llm import greedy_ids
from distilledprag.errors import InputError
from distilledprag.evaluation.methods import Setting, trained_methods
from distilledprag.evaluation.metrics import best_exact_match, best_token_scores, squad_scores

ROWS_TOGETHER = 4096
NEGATIVES = 2048  # tokens beside the batch's own that the decoder must tell from the right ones in training
PASSAGES_TOGETHER = 8
WIDTH = 256
LEARNING_RATE = 1e-3
REPEAT = (
    "Repeat passage 1 word for word.",
    "What does passage 1 say? Write down all of it.",
    "What are all the names, numbers and dates in passage 1?",
)
ANSWER_TOKENS = 24  # of its answer to a question
LONGEST = 320  # tokens of a passage that slots are made for

Progress = Callable[[int, int], None]


class Attacker(Protocol):
    """`fit` on the attacker's own adapters, then `read` the tokens of an adapter, in the passage's order as far as it knows
    it."""

    def fit(self, own: Sequence[Held], progress: Progress) -> None: ...
    def read(self, held: Held) -> list[int]: ...


def build_attacker(
    name: str, table: Tensor, *, steps: int, seed: int, device: str | torch.device, width: int = WIDTH
) -> Attacker:
    """table (V, E): the base's embeddings. steps, width: of the trained decoder."""
    normal = functional.normalize(table.detach().float(), dim=-1).to(device)
    if name == "nearest":
        return Nearest(normal)
    if name == "linear":
        return Linear(normal)
    return Decoder(normal, shuffled=name == "decoder_shuffled", steps=steps, seed=seed, width=width)


def nearest_tokens(wanted: Tensor, normal: Tensor) -> list[int]:
    """Of each of (n, E), the token whose normalised embedding (V, E) points most in its direction."""
    found: list[int] = []
    for part in wanted.split(ROWS_TOGETHER):
        found += (functional.normalize(part, dim=-1) @ normal.T).argmax(-1).tolist()
    return found


class Nearest:
    def __init__(self, normal: Tensor) -> None:
        self.normal = normal

    def fit(self, own: Sequence[Held], progress: Progress) -> None:
        """Nothing to learn. Raises InputError for rows that are no states of single tokens."""
        if any(one.sizes is None or max(one.sizes) > 1 or one.rows.shape[1] != self.normal.shape[1] for one in own):
            raise InputError("nearest embeddings are read off rows that stand for one token each")

    def read(self, held: Held) -> list[int]:
        return nearest_tokens(held.rows.float().to(self.normal.device), self.normal)


class Linear:
    def __init__(self, normal: Tensor, ridge: float = 10.0) -> None:
        self.normal, self.ridge = normal, ridge
        self.weights: list[Tensor] = []

    def fit(self, own: Sequence[Held], progress: Progress) -> None:
        if own[0].sizes is None:
            self._fit_bag(own)
            return
        x = torch.cat([one.rows.float() for one in own]).to(self.normal.device)
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-4
        x = (x - self.mean) / self.scale
        tokens = [ids for one in own for ids in grouped(one)]
        self.weights = []
        for place in range(max(map(len, tokens))):
            having = torch.tensor([len(ids) > place for ids in tokens], device=x.device)
            wanted = self.normal[torch.tensor([ids[place] for ids in tokens if len(ids) > place], device=x.device)]
            part = x[having]
            gram = part.T @ part + self.ridge * torch.eye(x.shape[1], device=x.device)
            self.weights.append(torch.linalg.solve(gram, part.T @ wanted))

    def read(self, held: Held) -> list[int]:
        if held.sizes is None:
            return self._read_bag(held)
        predicted = self.predict(held.rows.float().to(self.normal.device))  # (N, places, E)
        found = [nearest_tokens(predicted[:, place], self.normal) for place in range(predicted.shape[1])]
        return [found[place][row] for row, size in enumerate(held.sizes) for place in range(size)]

    def predict(self, rows: Tensor) -> Tensor:
        """(N, W) -> the embedding of each row's tokens, as far as a linear map knows it, (N, places, E)."""
        x = (rows - self.mean) / self.scale
        return torch.stack([x @ weight for weight in self.weights], dim=1)

    def _fit_bag(self, own: Sequence[Held]) -> None:
        x = torch.stack([one.rows.flatten() for one in own]).float()  # (P, F)
        self.mean = x.mean(0)
        scale = x.std(0)
        self.scale = torch.where(scale > 1e-12, scale, torch.inf)  # numbers that never differ say nothing
        self.known = (x - self.mean) / self.scale
        holds = torch.zeros(len(own), len(self.normal))
        for row, one in enumerate(own):
            holds[row, torch.tensor(one.read)] = 1.0
        self.usual = holds.mean(0)
        gram = self.known @ self.known.T
        ridge = max(float(gram.diagonal().mean()), 1e-6)
        self.dual = torch.linalg.solve(gram + ridge * torch.eye(len(own)), holds - self.usual)  # (P, V)

    def _read_bag(self, held: Held) -> list[int]:
        """As many of the likeliest tokens as the passage has; how many is seen from the number of masks."""
        x = (held.rows.flatten().float() - self.mean) / self.scale
        return (self.usual + (self.known @ x) @ self.dual).topk(min(len(held.read), len(self.usual))).indices.tolist()


def grouped(held: Held) -> list[list[int]]:
    """The tokens of each row."""
    assert held.sizes is not None
    found, begin = [], 0
    for size in held.sizes:
        found.append(held.read[begin : begin + size])
        begin += size
    return found


class RowTransformer(nn.Module):
    """Two layers over the rows; what is read off each output is an embedding, compared with the table's.

    places: of rows, whose number is known to it (None: rows in random order). slots: outputs besides those at the rows. tokens:
    of an output.
    """

    def __init__(self, width: int, table: int, *, places: int | None, slots: int, tokens: int, size: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens = tokens
        self.inward = nn.Linear(width, size)
        self.places = nn.Parameter(torch.randn(places, size) * 0.02) if places else None
        self.slots = nn.Parameter(torch.randn(slots, size) * 0.02)
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(size), enable_nested_tensor=False)
        self.head = nn.Linear(size, tokens * table)
        self.order = nn.Linear(size, 1)
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))

    def forward(self, rows: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """rows (B, N, W), there (B, N) False on padding -> wanted embeddings (B, N or S, tokens, E) and places (B, N) in 0..1."""
        x = self.inward(rows)
        if self.places is not None:
            x = x + self.places[: x.shape[1]]
        count = x.shape[1]
        if len(self.slots):
            x = torch.cat([x, self.slots.expand(len(x), -1, -1)], dim=1)
            there = torch.cat([there, there.new_ones(len(x), len(self.slots))], dim=1)
        x = self.layers(x, src_key_padding_mask=~there)
        outputs = x[:, count:] if len(self.slots) else x
        return self.head(outputs).unflatten(-1, (self.tokens, -1)), self.order(x[:, :count])[..., 0]


class Decoder:
    def __init__(self, normal: Tensor, *, shuffled: bool, steps: int, seed: int, width: int) -> None:
        self.normal, self.shuffled, self.steps, self.seed = normal, shuffled, steps, seed
        self.width = width

    def fit(self, own: Sequence[Held], progress: Progress) -> None:
        torch.manual_seed(self.seed)
        draw = torch.Generator().manual_seed(self.seed)
        device = self.normal.device
        self.by_token = own[0].sizes is not None
        self._learn_scale(own)
        self.linear: Linear | None = None
        if self.by_token:
            self.linear = Linear(self.normal)
            self.linear.fit(own, progress)
        tokens = max((size for one in own for size in one.sizes or ()), default=1)
        most = max(len(one.rows) for one in own)
        slots = 0 if self.by_token else min(LONGEST, max(len(one.read) for one in own))
        places = None if self.shuffled else max(most, 1024 if self.by_token else most)
        model = RowTransformer(
            own[0].rows.shape[1], self.normal.shape[1], places=places, slots=slots, tokens=tokens, size=self.width
        )
        self.model = model.to(device).train()
        if self.linear is not None:  # what is learned is a correction of the linear attacker's answer
            nn.init.zeros_(self.model.head.weight)
            nn.init.zeros_(self.model.head.bias)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        warmup = max(1, self.steps // 20)
        for step in range(self.steps):
            rate = min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * LEARNING_RATE
            chosen = torch.randint(len(own), (min(PASSAGES_TOGETHER, len(own)),), generator=draw).tolist()
            loss = self._loss([own[index] for index in chosen], draw)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            progress(step + 1, self.steps)
        self.model.eval()

    def _learn_scale(self, own: Sequence[Held]) -> None:
        """Rows of tokens have one mean and scale; other rows one for each place, since every place has a meaning of its own."""
        rows = [one.rows.float() for one in own]
        stacked = torch.cat(rows) if self.by_token else torch.stack(rows)
        self.mean, scale = stacked.mean(0), stacked.std(0)
        self.scale = torch.where(scale > 1e-12, scale, torch.inf)

    def _batch(self, some: Sequence[Held], orders: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        rows = [((one.rows.float() - self.mean) / self.scale)[order] for one, order in zip(some, orders, strict=True)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        there = torch.arange(padded.shape[1])[None] < torch.tensor([len(one) for one in rows])[:, None]
        return padded.to(self.normal.device), there.to(self.normal.device)

    def _wanted(self, some: Sequence[Held], orders: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, N or S, tokens, E) and places (B, N) in 0..1 for these passages, rows in the given orders."""
        rows, there = self._batch(some, orders)
        wanted, places = self.model(rows, there)
        if self.linear is not None:
            for number, (one, order) in enumerate(zip(some, orders, strict=True)):
                guess = self.linear.predict(one.rows.float().to(rows.device))[order.to(rows.device)]
                wanted[number, : len(order)] = wanted[number, : len(order)] + guess
        return wanted, places

    def _loss(self, some: Sequence[Held], draw: torch.Generator) -> Tensor:
        orders = [self._order(one, draw) for one in some]
        wanted, places = self._wanted(some, orders)
        picked: list[tuple[int, int, int]] = []
        ids: list[int] = []
        for number, (one, order) in enumerate(zip(some, orders, strict=True)):
            if self.by_token:
                groups = grouped(one)
                targets = [(at, k, token) for at, row in enumerate(order.tolist()) for k, token in enumerate(groups[row])]
            else:
                targets = [(at, 0, token) for at, token in enumerate(one.read[: wanted.shape[1]])]
            picked += [(number, at, k) for at, k, _ in targets]
            ids += [token for _, _, token in targets]
        device = self.normal.device
        others = torch.randint(len(self.normal), (NEGATIVES,), generator=draw)
        candidates, positions = torch.unique(torch.cat([torch.tensor(ids), others]), return_inverse=True)
        found = functional.normalize(wanted[tuple(torch.tensor(picked, device=device).T)], dim=-1)
        logits = self.model.sharpness.exp() * (found @ self.normal[candidates.to(device)].T)
        loss = functional.cross_entropy(logits, positions[: len(ids)].to(device))
        if self.shuffled and self.by_token:
            for number, order in enumerate(orders):
                aim = (order.float() / max(1, len(order) - 1)).to(device)
                loss = loss + (places[number, : len(order)] - aim).square().mean() / len(orders)
        return loss

    def _order(self, one: Held, draw: torch.Generator) -> Tensor:
        count = len(one.rows)
        return torch.randperm(count, generator=draw) if self.shuffled else torch.arange(count)

    @torch.no_grad()
    def read(self, held: Held) -> list[int]:
        draw = torch.Generator().manual_seed(self.seed + 1)
        order = self._order(held, draw)
        wanted, places = self._wanted([held], [order])
        if not self.by_token:
            return nearest_tokens(wanted[0, : len(held.read), 0], self.normal)
        assert held.sizes is not None
        found = [nearest_tokens(wanted[0, :, k], self.normal) for k in range(wanted.shape[2])]
        sizes = [held.sizes[row] for row in order.tolist()]
        at = list(range(len(order)))
        if self.shuffled:
            at.sort(key=lambda place: float(places[0, place]))
        return [found[k][place] for place in at for k in range(sizes[place])]


def decoder_settings() -> dict[str, Any]:
    """What the trained decoder is, for the report."""
    return {"layers": 2, "width": WIDTH, "heads": 4, "passages_a_step": PASSAGES_TOGETHER, "learning_rate": LEARNING_RATE}


@dataclass
class Questioned:
    """repeated: for each wording of REPEAT the ids that the base wrote. f1, exact: of each question about another fact."""

    passage: Passage
    repeated: list[list[int]]
    f1: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)


def question_base(setting: Setting, dial: Dial, passages: Sequence[Passage], progress: Progress) -> list[Questioned]:
    """What the base says about each passage, with the passage's adapter (or, for `rag`, with its text) under the attacker's
    prompts."""
    found = []
    for begin in range(0, len(passages), PASSAGES_TOGETHER):
        some = passages[begin : begin + PASSAGES_TOGETHER]
        longest = max(len(one.ids) for one in some)
        repeated = [_asked(setting, dial, [(one, wording) for one in some], longest) for wording in REPEAT]
        for place, one in enumerate(some):
            found.append(Questioned(one, [repeated[number][place] for number in range(len(REPEAT))]))
        pairs = [(place, question, answer) for place, one in enumerate(some) for question, answer in one.questions[1:]]
        for first in range(0, len(pairs), PASSAGES_TOGETHER):
            group = pairs[first : first + PASSAGES_TOGETHER]
            answers = _asked(setting, dial, [(some[place], question) for place, question, _ in group], ANSWER_TOKENS)
            for (place, _, answer), ids in zip(group, answers, strict=True):
                said = setting.base.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0]
                found[begin + place].f1.append(best_token_scores(said, [answer], squad_scores).f1)
                found[begin + place].exact.append(best_exact_match(said, [answer]))
        progress(len(found), len(passages))
    return found


def _asked(setting: Setting, dial: Dial, pairs: Sequence[tuple[Passage, str]], most: int) -> list[list[int]]:
    """The base's continuation of each passage's prompt with each question, at most `most` tokens."""
    prompts, base, stop = setting.prompts, setting.base, setting.prompts.end_of_turn_id
    if dial.method in ("rag", "closed_book"):
        plain = [prompts.build(asked, [one.text] if dial.method == "rag" else []).open_ids for one, asked in pairs]
        return greedy_ids(base, plain, None, stop, most)
    if dial.method in trained_methods():
        masked = [prompts.build(asked, [one.text]).masked_ids for one, asked in pairs]
        return greedy_ids(base, masked, loras_of(setting, dial.method, [one for one, _ in pairs]), stop, most)
    adapters = [states_of(setting, dial, one)[0] for one, _ in pairs]
    masked = []
    for (_, asked), adapter in zip(pairs, adapters, strict=True):
        opening = prompts.context(["."])  # with one mask; the attacker writes as many as there are rows
        ids = [token for token in opening.masked_ids if token != prompts.mask_token_id]
        masked.append([*ids, *[prompts.mask_token_id] * adapter.count, *prompts.question(asked)])
    decoder = setting.compressors[dial.method].decoder_batch() if dial.method in setting.compressors else None
    return greedy_ids(base, masked, decoder, stop, most, states=adapters)
